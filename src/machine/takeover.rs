//! An instance goes on with another definition: every frame is placed anew, or nothing is touched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::frame::{Frame, FrameId, Phase};
use super::mover::{Mover, Setting};
use super::snapshot::Snapshot;
use super::{End, Transition};
use crate::codec::{Home, Place, Value};
use crate::definition::{Definition, Manifest, ManifestNode, NodeKind, Op, TakeOver};

/// Why an instance has no place in a newer definition. It is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it stands at `{node}`, {why}")]
pub struct Misplaced {
    /// The path of the node it stands at.
    pub node: String,
    /// Why it cannot stand there any more.
    pub why: &'static str,
}

/// Places an instance of an older definition, whose manifest is `old`, in the definition of the setting's program. Its
/// branches, values and ended branches must have been read.
///
/// # Errors
/// [`Misplaced`]; the snapshot is as it was.
pub fn take_over(
    setting: &Setting<'_>,
    newer: &Definition,
    old: &Manifest,
    takeover: &TakeOver,
    snapshot: &mut Snapshot,
) -> Result<Transition, Misplaced> {
    let placing = Placing::new(newer, old, takeover);
    let placed = snapshot.frames.iter().map(|(id, frame)| Ok((id, placing.place(frame)?)));
    let placed = placed.collect::<Result<Vec<_>, _>>()?;
    let end = match &snapshot.end {
        Some(End::TaskFailed { node, attempt, kind, message }) => {
            let (attempt, kind, message) = (*attempt, *kind, message.clone());
            Some(End::TaskFailed { node: placing.node(*node)?, attempt, kind, message })
        }
        other => other.clone(),
    };
    let mut mover = Mover::new(setting, snapshot);
    mover.changed = true;
    mover.spill_results(Some(old));
    mover.snapshot.definition = newer.hash();
    mover.snapshot.end = end;
    for (id, (position, node)) in placed {
        mover.place(id, position, node, &placing);
    }
    Ok(mover.finish_unasked())
}

impl Mover<'_> {
    fn place(&mut self, id: FrameId, position: u32, node: u32, placing: &Placing<'_>) {
        let home = |home: &Home| placing.home(home);
        let Some(mut frame) = self.snapshot.frames.take(id) else { return };
        (frame.position, frame.node) = (position, node);
        frame.value = frame.value.rehome(&home);
        let place = frame.place();
        for (index, gave) in std::mem::take(&mut frame.gathered) {
            // The records of ended branches name nodes by index as well.
            let gave = gave.rehome(&home);
            let gave = self.put_branch(&place, index, gave);
            frame.gathered.insert(index, gave);
        }
        self.snapshot.frames.put(id, frame);
    }
}

struct Placing<'a> {
    newer: &'a Definition,
    old: &'a Manifest,
    takeover: &'a TakeOver,
    /// The newer definition's nodes by path.
    nodes: HashMap<&'a str, u32>,
    /// The positions of the newer program's ops by their node, in order: few each.
    positions: HashMap<u32, Vec<u32>>,
}

impl<'a> Placing<'a> {
    fn new(newer: &'a Definition, old: &'a Manifest, takeover: &'a TakeOver) -> Self {
        let paths = newer.manifest().nodes.iter().map(|node| node.path.as_str());
        let mut positions = HashMap::<u32, Vec<u32>>::new();
        for (op, position) in newer.program().ops.iter().zip(0..) {
            positions.entry(op.node().unwrap_or(u32::MAX)).or_default().push(position);
        }
        Self { newer, old, takeover, nodes: paths.zip(0..).collect(), positions }
    }

    fn described(&self, node: u32) -> Result<&'a ManifestNode, Misplaced> {
        let unknown = || Misplaced { node: "?".into(), why: "which its own manifest does not name" };
        self.old.nodes.get(node as usize).ok_or_else(unknown)
    }

    /// The same node in the newer definition.
    fn node(&self, node: u32) -> Result<u32, Misplaced> {
        let old = self.described(node)?;
        let misplaced = |why| Misplaced { node: old.path.to_string(), why };
        let path = self.takeover.new_path(old.path.as_str());
        let node = *self.nodes.get(&*path).ok_or_else(|| misplaced("which is not there any more"))?;
        let new = self.newer.manifest().nodes.get(node as usize);
        let alike = new.is_some_and(|new| (new.kind, &new.signal, &new.form) == (old.kind, &old.signal, &old.form));
        if alike { Ok(node) } else { Err(misplaced("which is something else now")) }
    }

    /// Where a frame stands in the newer program: position and node.
    fn place(&self, frame: &Frame) -> Result<(u32, u32), Misplaced> {
        let old = self.described(frame.node)?;
        let misplaced = |why| Misplaced { node: old.path.to_string(), why };
        let node = self.node(frame.node)?;
        self.check_around(frame.node, node).map_err(misplaced)?;
        let stands = |op: &Op| match (op, &frame.phase) {
            (Op::Task(_) | Op::Map(_) | Op::Route(_), Phase::Task { .. })
            | (Op::Delay { .. }, Phase::Delay { .. })
            | (Op::Wait(_), Phase::Signal { .. })
            | (Op::Fork(_), Phase::Fork { .. })
            | (Op::Map(_), Phase::Map { .. })
            // Of a branch that failed at its end one cannot tell which one it is.
            | (Op::LoopEnd { .. }, Phase::Failed) => op.node() == Some(node),
            _ => false,
        };
        let program = self.newer.program();
        let mut own = self.positions.get(&node).into_iter().flatten().copied();
        let position = own.find(|position| program.op(*position).is_some_and(stands));
        Ok((position.ok_or_else(|| misplaced("where it cannot be placed"))?, node))
    }

    /// Forks, maps and loops around a node count iterations and branches of the instance: they must be the same.
    fn check_around(&self, old: u32, new: u32) -> Result<(), &'static str> {
        let counts = |node: &&ManifestNode| matches!(node.kind, NodeKind::Fork | NodeKind::Map | NodeKind::Loop);
        let newer = self.newer.manifest();
        // The node itself too: an instance that waits at a fork or map is within it.
        let old_around: Vec<_> = self.old.around(old).filter(counts).collect();
        let new_around: Vec<_> = newer.around(new).filter(counts).collect();
        if old_around.len() != new_around.len() {
            return Err("which is within other forks, maps or loops now");
        }
        for (old, new) in old_around.iter().zip(&new_around) {
            if (old.kind, &old.form, &old.signal) != (new.kind, &new.form, &new.signal) {
                return Err("which is within other forks, maps or loops now, or a loop that drains another signal");
            }
            if old.kind != NodeKind::Loop && old.path != new.path {
                return Err("which is at or within a fork or map that was renamed");
            }
            if old.kind == NodeKind::Fork && old.branches != new.branches {
                return Err("which is at or within a fork that has other branches now");
            }
        }
        let in_forks = |manifest: &'a Manifest, node: u32| {
            let within = manifest.around(node).zip(manifest.around(node).skip(1));
            let forks = within.filter(|(_, outer)| outer.kind == NodeKind::Fork);
            forks.map(|(inner, _)| inner.branch.as_deref()).collect::<Vec<_>>()
        };
        if in_forks(self.old, old) == in_forks(newer, new) { Ok(()) } else { Err("which is in another branch now") }
    }

    /// A row's home by the newer definition's numbers: those under a path that is still there. Ended branches are read and
    /// written anew.
    fn home(&self, home: &Home) -> Option<Home> {
        let place = |place: &Place| {
            let old = self.old.nodes.get(place.node as usize)?;
            let node = *self.nodes.get(old.path.as_str())?;
            let kind = self.newer.manifest().nodes.get(node as usize)?.kind;
            (kind == old.kind).then(|| Place { node, indices: Arc::clone(&place.indices) })
        };
        match home {
            Home::Input => Some(Home::Input),
            Home::Result(at) => place(at).map(Home::Result),
            Home::List(at, count) => place(at).map(|at| Home::List(at, *count)),
            Home::Item(at, row, index) => place(at).map(|at| Home::Item(at, *row, *index)),
            Home::Branch(..) | Home::Branches(..) => None,
        }
    }
}

impl Snapshot {
    /// What ended branches of forks and maps under way gave, which a take-over must read ([`Snapshot::gather`]) and write
    /// anew: by frame and index.
    pub fn ended_branches(&self, manifest: &Manifest) -> Vec<(FrameId, u32, Home)> {
        let mut ended = Vec::new();
        for (id, frame) in self.frames.iter() {
            let started = match frame.phase {
                Phase::Map { started, .. } => started,
                Phase::Fork { .. } => {
                    let fork = manifest.nodes.get(frame.node as usize);
                    fork.map_or(0, |fork| u32::try_from(fork.branches.len()).unwrap_or(u32::MAX))
                }
                _ => continue,
            };
            let branches = self.frames.branches_of(id).filter_map(|id| self.frames.get(id)?.lineage.origin);
            let live: HashSet<u32> = branches.map(|origin| origin.index).collect();
            let gone = (0..started).filter(|index| !live.contains(index));
            ended.extend(gone.map(|index| (id, index, Home::Branch(frame.place(), index))));
        }
        ended
    }

    /// Takes what an ended branch gave.
    pub fn gather(&mut self, frame: FrameId, index: u32, gave: Value) {
        self.frames.update(frame, |frame| frame.gathered.insert(index, gave));
    }
}
