//! The definition hash: SHA-256 over a length-prefixed encoding of what an instance depends on.
//!
//! In it: workflow name and version; of every op in order its kind, node path, signal name, whether a wait has a timeout
//! and keeps its input, a task's version. Not in it: lengths of timeouts and delays, retry numbers, priorities, tags,
//! texts: tuning never strands an instance.

use sha2::{Digest, Sha256};

use super::program::{Node, Op};
use super::{TaskOptions, WorkflowInfo};
use crate::id::DefinitionHash;

pub(super) struct Canonical(Sha256);

impl Canonical {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}

/// `options` gives a task's options by its index.
pub(super) fn hash<'a>(
    info: &WorkflowInfo,
    ops: &[Op],
    nodes: &[Node],
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
            Op::End => out.field(b"end"),
        }
    }
    DefinitionHash(out.0.finalize().into())
}
