//! Turns a batch of conditional writes into the keys they change: each key once, with its last
//! value.

use std::collections::hash_map::Entry;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use super::kv::{Ops, Trace};
use super::{Answers, Change, Condition, Conflict, StoreError, Version, Write, keys};
use crate::id::{InstanceId, RunId, Stamp};
use crate::machine::HeadIndex;

/// An instance as stored.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredInstance {
    pub(super) head: Option<Bytes>,
    /// The index fields of the head; none if it cannot be read.
    pub(super) index: Option<HeadIndex>,
    /// The stamp of the write that quarantined it, if it is quarantined.
    pub(super) quarantine: Option<Stamp>,
    /// The index entries and run found for it, if the head cannot be read.
    pub(super) trace: Option<Box<Trace>>,
}

/// The stored data that a batch asks for.
pub(super) trait Stored {
    /// Reads an instance.
    fn instance(&mut self, id: &InstanceId) -> Result<StoredInstance, StoreError>;

    /// Returns the stamp of the write that superseded a run; none if the run was not superseded or
    /// its marker is swept.
    fn superseded_by(&self, run: RunId) -> Result<Option<Stamp>, StoreError>;
}

/// The changes that a batch makes, and its answers.
pub(super) struct BatchPlan<'a> {
    pub(super) ops: Ops,
    pub(super) answers: Answers,
    /// The instances that the batch looked at, as it leaves them.
    pub(super) left: Vec<(&'a InstanceId, StoredInstance)>,
}

/// Checks each write against the state that the writes before it leave.
pub(super) fn plan<'a>(batch: &'a [Write], stored: &mut impl Stored) -> Result<BatchPlan<'a>, StoreError> {
    let mut instances: HashMap<&InstanceId, InstanceState> = HashMap::with_capacity(batch.len());
    let mut ops = Ops::new();
    let mut answers = Vec::with_capacity(batch.len());
    for (position, write) in batch.iter().enumerate() {
        let instance = match instances.entry(&write.instance) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let rest = batch.get(position..).unwrap_or_default();
                let current = stored.instance(&write.instance)?;
                entry.insert(InstanceState::new(current, rest, position, stored)?)
            }
        };
        answers.push(instance.check_and_apply(position, write, &mut ops, stored)?);
    }
    let left = instances.into_iter().map(|(id, state)| (id, state.current)).collect();
    Ok(BatchPlan { ops, answers, left })
}

/// One instance, as the batch has left it so far.
struct InstanceState {
    current: StoredInstance,
    /// The positions of writes that are stored already, because the batch or one like it was
    /// committed before.
    done: Vec<usize>,
    /// Runs that the batch has ended.
    over: Vec<RunId>,
}

impl StoredInstance {
    fn version(&self) -> Option<Version> {
        let head = self.head.as_ref()?;
        Some(Version::of_head(head, self.index.as_ref(), self.quarantine.is_some()))
    }

    /// Returns the stamp of the write that left this state; [`Stamp::NONE`] if the instance does
    /// not exist.
    fn stamp(&self) -> Stamp {
        let of_head = || self.index.map_or(Stamp::NONE, |index| index.stamp);
        self.quarantine.unwrap_or_else(of_head)
    }

    /// Returns the fields that the indexes list; none for a quarantined instance or an unreadable
    /// head.
    fn listed(&self) -> Option<HeadIndex> {
        if self.quarantine.is_some() { None } else { self.index }
    }

    fn set_head(&mut self, id: &InstanceId, head: Option<Bytes>) {
        self.index = head.as_ref().and_then(|head| HeadIndex::of_head(id, head).ok());
        self.head = head;
        self.quarantine = None;
    }
}

impl Write {
    /// Returns the version that the write expects; none if it expects no instance.
    fn asks_for(&self) -> Option<Version> {
        match self.condition {
            Condition::Absent => None,
            Condition::Seen(version) => Some(version),
        }
    }

    /// Returns the version that the write leaves.
    fn leaves(&self) -> Option<Version> {
        match &self.change {
            Change::Head(head) => {
                let index = HeadIndex::of_head(&self.instance, head).ok();
                Some(Version::of_head(head, index.as_ref(), false))
            }
            Change::Quarantine(_) => self.asks_for().map(Version::set_aside),
            Change::Delete => None,
        }
    }

    /// Returns true if this write left the instance as it is stored.
    fn is_last_of(&self, current: &StoredInstance, stored: &impl Stored) -> Result<bool, StoreError> {
        match (&self.change, self.superseded) {
            (Change::Delete, Some(run)) if current.head.is_none() => {
                Ok(stored.superseded_by(run)?.is_some_and(|stamp| stamp.is_of_same_write(self.stamp)))
            }
            (Change::Delete, _) => Ok(false),
            (Change::Head(_), _) if self.leaves() != current.version() => Ok(false),
            _ => Ok(self.stamp.is_of_same_write(current.stamp())),
        }
    }
}

impl InstanceState {
    /// Begins with an instance as stored. `rest` is the batch from the instance's first write on,
    /// which has the position `offset`.
    fn new(current: StoredInstance, rest: &[Write], offset: usize, stored: &impl Stored) -> Result<Self, StoreError> {
        let mut state = Self { current, done: Vec::new(), over: Vec::new() };
        // In a batch that is no repeat the condition of the first write holds, so the search is
        // skipped.
        if let Some(first) = rest.first()
            && state.check(first, stored)?.is_err()
        {
            state.done = done_before(&state.current, &first.instance, rest, offset, stored)?;
        }
        Ok(state)
    }

    fn check_and_apply(
        &mut self,
        position: usize,
        write: &Write,
        ops: &mut Ops,
        stored: &impl Stored,
    ) -> Result<Result<(), Conflict>, StoreError> {
        if self.done.contains(&position) {
            return Ok(Ok(()));
        }
        let checked = self.check(write, stored)?;
        match checked {
            Ok(()) => self.apply(write, ops),
            // A repeated write in one batch.
            Err(_) if write.is_last_of(&self.current, stored)? => return Ok(Ok(())),
            Err(_) => {}
        }
        Ok(checked)
    }

    fn apply(&mut self, write: &Write, ops: &mut Ops) {
        let (id, listed) = (&write.instance, self.current.listed());
        match &write.change {
            Change::Delete if self.current.head.is_none() => return,
            Change::Delete => {
                self.end_quarantine(id, ops);
                self.end_unreadable(write, ops);
                self.current.set_head(id, None);
                ops.insert(keys::head(id), None);
            }
            Change::Head(head) => {
                self.end_quarantine(id, ops);
                self.end_unreadable(write, ops);
                self.current.set_head(id, Some(head.clone()));
                ops.insert(keys::head(id), Some(head.clone()));
            }
            Change::Quarantine(record) => {
                if let Some(run) = self.current.trace.as_ref().and_then(|trace| trace.run) {
                    ops.insert(keys::run_of(id), Some(Bytes::copy_from_slice(&run.to_bytes())));
                }
                self.current.quarantine = Some(write.stamp);
                ops.insert(keys::quarantine(id), Some(record.clone()));
            }
        }
        self.relist(id, listed.as_ref(), ops);
        for row in &write.rows {
            ops.insert(keys::row(write.run, &row.key), row.value.clone());
        }
        if let Some(run) = write.superseded {
            self.over.push(run);
            ops.insert(keys::superseded(run), Some(Bytes::copy_from_slice(&write.stamp.to_bytes())));
        }
    }

    fn end_quarantine(&self, id: &InstanceId, ops: &mut Ops) {
        if self.current.quarantine.is_some() {
            ops.insert(keys::quarantine(id), None);
        }
    }

    /// Supersedes the run of an unreadable head: the writer could not know which run it ends.
    fn end_unreadable(&mut self, write: &Write, ops: &mut Ops) {
        let Some(run) = self.current.trace.as_mut().and_then(|trace| trace.run.take()) else { return };
        if self.current.quarantine.is_some() {
            ops.insert(keys::run_of(&write.instance), None);
        }
        let goes_on = matches!(write.change, Change::Head(_)) && write.run == run;
        if !goes_on {
            self.over.push(run);
            ops.insert(keys::superseded(run), Some(Bytes::copy_from_slice(&write.stamp.to_bytes())));
        }
    }

    fn meets(&self, write: &Write) -> bool {
        let is_there = self.current.head.is_some();
        match write.condition {
            _ if matches!(write.change, Change::Delete) && !is_there => true,
            Condition::Absent => !is_there,
            Condition::Seen(version) => self.current.version() == Some(version),
        }
    }

    fn check(&self, write: &Write, stored: &impl Stored) -> Result<Result<(), Conflict>, StoreError> {
        if write.starts_run() && (self.over.contains(&write.run) || stored.superseded_by(write.run)?.is_some()) {
            return Ok(Err(Conflict { is_over: true, ..self.conflict() }));
        }
        Ok(if self.meets(write) { Ok(()) } else { Err(self.conflict()) })
    }

    fn conflict(&self) -> Conflict {
        Conflict { found: self.current.index.map(|index| (index.run, index.seq)), is_over: false }
    }

    /// Brings the indexes in line with the head. Entries that stay as they are `listed` are not
    /// written again.
    fn relist(&mut self, id: &InstanceId, listed: Option<&HeadIndex>, ops: &mut Ops) {
        if let Some(trace) = &mut self.current.trace {
            ops.extend(trace.entries.drain(..).map(|key| (key, None)));
        }
        let now = self.current.listed();
        // A usual transition changes no index entry.
        if let (Some(old), Some(new)) = (listed, &now)
            && old.is_listed_as(new)
        {
            return;
        }
        let old: Vec<_> = listed.into_iter().flat_map(|index| keys::index_entries(id, index)).collect();
        let new: Vec<_> = now.iter().flat_map(|index| keys::index_entries(id, index)).collect();
        for (key, _) in old.iter().filter(|(key, _)| new.iter().all(|(kept, _)| kept != key)) {
            ops.insert(key.clone(), None);
        }
        for (key, says) in new.into_iter().filter(|entry| !old.contains(entry)) {
            ops.insert(key, Some(says));
        }
    }
}

/// Returns the positions of the writes that are stored already: the last one whose stamp is the
/// stored one, and before it each write that left the version that the next one expects. `rest`
/// begins at `offset`.
fn done_before(
    current: &StoredInstance,
    id: &InstanceId,
    rest: &[Write],
    offset: usize,
    stored: &impl Stored,
) -> Result<Vec<usize>, StoreError> {
    let (mut done, mut asked) = (Vec::new(), None);
    for (position, write) in rest.iter().enumerate().rev().filter(|(_, write)| write.instance == *id) {
        let led_here = match asked {
            None => write.is_last_of(current, stored)?,
            Some(version) => write.leaves() == version,
        };
        if led_here {
            done.push(offset + position);
            asked = Some(write.asks_for());
        }
    }
    Ok(done)
}
