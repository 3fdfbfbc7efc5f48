//! Upgrades: an instance goes on with another definition. Every frame is placed anew, or nothing is
//! changed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::era::{Era, encode_era};
use super::frame::{Began, Frame, FrameId, Phase};
use super::interpreter::{Context, Interpreter};
use super::snapshot::Snapshot;
use super::{End, RowKey, Transition};
use crate::definition::{Definition, Manifest, ManifestNode, NodeKind, Op, Renames, UpgradeFrom};

/// The reason why an instance has no place in a newer definition. The instance is left unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot upgrade: node `{node}` {why}")]
pub struct UpgradeConflict {
    /// The path of the node at which the instance stands.
    pub node: String,
    /// The reason why the instance cannot stand there any more.
    pub why: &'static str,
}

/// Places an instance of an older definition, whose manifest is `old`, in the definition of the
/// context's program. The instance's branches must have been read.
///
/// # Errors
/// [`UpgradeConflict`]; the snapshot is unchanged.
pub fn upgrade(
    context: &Context<'_>,
    newer: &Definition,
    old: &Manifest,
    upgrade_from: &UpgradeFrom,
    snapshot: &mut Snapshot,
) -> Result<Transition, UpgradeConflict> {
    let placing = Placing::new(newer, old, upgrade_from);
    let placed = snapshot.frames.iter().map(|(id, frame)| Ok((id, placing.place(frame)?)));
    let placed = placed.collect::<Result<Vec<_>, _>>()?;
    let end = match &snapshot.end {
        Some(End::TaskFailed { node, attempt, kind, message }) => {
            let (attempt, kind, message) = (*attempt, *kind, message.clone());
            Some(End::TaskFailed { node: placing.node(*node)?, attempt, kind, message })
        }
        other => other.clone(),
    };
    let mut interpreter = Interpreter::new(context, snapshot);
    interpreter.changed = true;
    interpreter.spill_results(old);
    let era = interpreter.snapshot.era;
    let renames = Renames::new(upgrade_from, old, newer.manifest());
    interpreter.put(RowKey::Era(era), &encode_era(&Era { definition: interpreter.snapshot.definition, renames }));
    interpreter.snapshot.era = era.saturating_add(1);
    interpreter.snapshot.definition = newer.hash();
    interpreter.snapshot.end = end;
    for (id, (position, node)) in placed {
        interpreter.put_in_place(id, position, node, era);
    }
    Ok(interpreter.finish_unasked())
}

impl Interpreter<'_> {
    /// Places a frame. Moves no value: each value's home has the era in which it was stored.
    fn put_in_place(&mut self, id: FrameId, position: u32, node: u32, era: u32) {
        self.snapshot.frames.update(id, |frame| {
            if frame.began.is_none() && matches!(frame.phase, Phase::Fork { .. } | Phase::Map { .. }) {
                frame.began = Some(Began { era, node: frame.node });
            }
            (frame.position, frame.node) = (position, node);
        });
    }
}

struct Placing<'a> {
    newer: &'a Definition,
    old: &'a Manifest,
    upgrade_from: &'a UpgradeFrom,
    /// The new paths of renamed nodes.
    renamed_to: HashSet<String>,
    /// The newer definition's nodes by path.
    nodes: HashMap<&'a str, u32>,
    /// The positions of the newer program's ops by their node, in order; few per node.
    positions: HashMap<u32, Vec<u32>>,
}

impl<'a> Placing<'a> {
    fn new(newer: &'a Definition, old: &'a Manifest, upgrade_from: &'a UpgradeFrom) -> Self {
        let paths = newer.manifest().nodes.iter().map(|node| node.path.as_str());
        let mut positions = HashMap::<u32, Vec<u32>>::new();
        for (op, position) in newer.program().ops.iter().zip(0..) {
            positions.entry(op.node().unwrap_or(u32::MAX)).or_default().push(position);
        }
        let renamed = old.nodes.iter().filter_map(|node| match upgrade_from.new_path(node.path.as_str()) {
            Cow::Owned(path) if path != node.path.as_str() => Some(path),
            _ => None,
        });
        Self { newer, old, upgrade_from, renamed_to: renamed.collect(), nodes: paths.zip(0..).collect(), positions }
    }

    fn described(&self, node: u32) -> Result<&'a ManifestNode, UpgradeConflict> {
        let unknown = || UpgradeConflict { node: "?".into(), why: "is not in the manifest of its definition" };
        self.old.nodes.get(node as usize).ok_or_else(unknown)
    }

    /// Returns the same node in the newer definition.
    fn node(&self, node: u32) -> Result<u32, UpgradeConflict> {
        let old = self.described(node)?;
        let conflict = |why| UpgradeConflict { node: old.path.to_string(), why };
        let path = self.upgrade_from.new_path(old.path.as_str());
        if path == old.path.as_str() && self.renamed_to.contains(&*path) {
            return Err(conflict("lost its path to a renamed node: rename it as well"));
        }
        let node = *self
            .nodes
            .get(&*path)
            .ok_or_else(|| conflict("does not exist in the new definition: keep it, or rename it in the upgrade"))?;
        let new = self.newer.manifest().nodes.get(node as usize);
        let alike = new.is_some_and(|new| (new.kind, &new.signal, &new.form) == (old.kind, &old.signal, &old.form));
        if alike { Ok(node) } else { Err(conflict("has another kind, form or signal in the new definition")) }
    }

    /// Returns the position and node of a frame in the newer program.
    fn place(&self, frame: &Frame) -> Result<(u32, u32), UpgradeConflict> {
        let old = self.described(frame.node)?;
        let conflict = |why| UpgradeConflict { node: old.path.to_string(), why };
        let node = self.node(frame.node)?;
        self.check_around(frame.node, node).map_err(conflict)?;
        let stands = |op: &Op| match (op, &frame.phase) {
            (Op::Task(_) | Op::Map(_) | Op::Route(_), Phase::Task { .. })
            | (Op::Delay { .. }, Phase::Delay { .. })
            | (Op::Wait(_), Phase::Signal { .. })
            | (Op::Fork(_), Phase::Fork { .. })
            | (Op::Map(_), Phase::Map { .. })
            // A branch that failed at its end is not placed: nothing tells which branch it is.
            | (Op::LoopEnd { .. }, Phase::Failed) => op.node() == Some(node),
            _ => false,
        };
        let program = self.newer.program();
        let mut own = self.positions.get(&node).into_iter().flatten().copied();
        let position = own.find(|position| program.op(*position).is_some_and(stands));
        Ok((position.ok_or_else(|| conflict("has no matching step in the new definition"))?, node))
    }

    /// Checks that a node is within the same forks, maps and loops as before: they count the
    /// instance's iterations and branches.
    fn check_around(&self, old: u32, new: u32) -> Result<(), &'static str> {
        let counts = |node: &&ManifestNode| matches!(node.kind, NodeKind::Fork | NodeKind::Map | NodeKind::Loop);
        let newer = self.newer.manifest();
        // The node itself counts, too: an instance that waits at a fork or map is within it.
        let old_around: Vec<_> = self.old.around(old).filter(counts).collect();
        let new_around: Vec<_> = newer.around(new).filter(counts).collect();
        if old_around.len() != new_around.len() {
            return Err("is within another number of forks, maps and loops in the new definition");
        }
        for (old, new) in old_around.iter().zip(&new_around) {
            if (old.kind, &old.form, &old.signal) != (new.kind, &new.form, &new.signal) {
                return Err("is within another kind of fork, map or loop, or drained signal, in the new definition");
            }
            if old.kind != NodeKind::Loop && old.path != new.path {
                return Err("is, or is within, a fork or map whose path has changed: keep that path");
            }
            if old.kind == NodeKind::Fork && old.branches != new.branches {
                return Err("is, or is within, a fork whose branches have changed: keep its branches");
            }
        }
        let in_forks = |manifest: &'a Manifest, node: u32| {
            let within = manifest.around(node).zip(manifest.around(node).skip(1));
            let forks = within.filter(|(_, outer)| outer.kind == NodeKind::Fork);
            forks.map(|(inner, _)| inner.branch.as_deref()).collect::<Vec<_>>()
        };
        if in_forks(self.old, old) == in_forks(newer, new) {
            Ok(())
        } else {
            Err("is in another branch of a fork in the new definition")
        }
    }
}
