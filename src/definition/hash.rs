//! The definition hash: SHA-256 over a length-prefixed encoding of everything that an instance
//! depends on.
//!
//! Included: workflow name and version; for every op in order its kind, node path, signal name,
//! whether a wait has a timeout and keeps its input, a task's version, branch ids, route keys, what
//! a loop does at its limit and which signal it drains, what a map does with failures; name and
//! version of each child. Not included: lengths of timeouts and delays, retry numbers, limits of
//! loops and maps, priorities, tags, texts. So tuning never strands an instance.

use sha2::{Digest, Sha256};

use super::program::{Node, Op, Target};
use super::{TaskOptions, WorkflowInfo};
use crate::id::DefinitionHash;

pub(super) struct Canonical(Sha256);

impl Canonical {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn targets(&mut self, targets: &[Target]) {
        self.field(&(targets.len() as u64).to_be_bytes());
        for target in targets {
            self.field(target.name.as_bytes());
        }
    }
}

/// A child workflow, which has no op of its own.
pub(super) struct ChildEntry {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) version: String,
}

/// Hashes a definition. `options` returns a task's options by its index.
pub(super) fn hash<'a>(
    info: &WorkflowInfo,
    ops: &[Op],
    nodes: &[Node],
    children: &[ChildEntry],
    options: impl Fn(u32) -> Option<&'a TaskOptions>,
) -> DefinitionHash {
    let mut out = Canonical(Sha256::new());
    out.field(b"everstep definition 1");
    out.field(info.name().as_bytes());
    out.field(info.version().as_bytes());
    for op in ops {
        if let Some(node) = op.node().and_then(|node| nodes.get(node as usize)) {
            out.field(node.path.as_str().as_bytes());
        }
        match op {
            Op::Task(task) => {
                out.field(b"task");
                out.field(options(task.task).map_or("", TaskOptions::version).as_bytes());
            }
            Op::Delay { .. } => out.field(b"delay"),
            Op::Wait(wait) => {
                out.field(b"wait");
                out.field(wait.signal.as_bytes());
                out.field(&[u8::from(wait.timeout.is_some()), u8::from(wait.keeps_input)]);
            }
            Op::Fork(fork) => {
                out.field(b"fork");
                out.targets(&fork.branches);
            }
            Op::Map(map) => {
                out.field(b"map");
                out.field(&[u8::from(map.collects)]);
            }
            Op::Route(route) => {
                out.field(b"route");
                out.field(&[u8::from(route.otherwise.is_some())]);
                out.targets(&route.arms);
            }
            Op::Loop(repeat) => {
                out.field(b"loop");
                // A draining loop has a longer field than any other loop, so that earlier hashes
                // stay valid.
                let mut end = vec![u8::from(repeat.exits)];
                if let Some(signal) = &repeat.drains {
                    end.push(1);
                    end.extend_from_slice(signal.as_bytes());
                }
                out.field(&end);
            }
            Op::BranchEnd { .. } => out.field(b"branch end"),
            Op::LoopEnd { .. } => out.field(b"loop end"),
            Op::Jump { .. } => out.field(b"arm end"),
            Op::End => out.field(b"end"),
        }
    }
    for child in children {
        out.field(b"child");
        for text in [&child.path, &child.name, &child.version] {
            out.field(text.as_bytes());
        }
    }
    DefinitionHash(out.0.finalize().into())
}
