//! From a batch of conditional writes to the keys they change: each key once, with its last value.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::kv::Ops;
use super::{Answers, Change, Condition, Conflict, StoreError, Write, keys};
use crate::id::{InstanceId, RunId};
use crate::machine::HeadIndex;

/// An instance as stored.
#[derive(Clone, Default)]
pub(super) struct Present {
    pub(super) head: Option<Bytes>,
    pub(super) quarantined: bool,
    /// Its index entries, if the head cannot be read and so cannot say which they are.
    pub(super) stale: Vec<Vec<u8>>,
}

/// Checks each write against what the ones before it left. `read` gives an instance as stored.
pub(super) fn fold(
    batch: &[Write],
    mut read: impl FnMut(&InstanceId) -> Result<Present, StoreError>,
) -> Result<(Ops, Answers), StoreError> {
    let mut folding: HashMap<&InstanceId, Folding> = HashMap::with_capacity(batch.len());
    let mut ops = Ops::new();
    let mut answers = Vec::with_capacity(batch.len());
    for (position, write) in batch.iter().enumerate() {
        let instance = match folding.entry(&write.instance) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let rest = batch.get(position..).unwrap_or_default();
                entry.insert(Folding::new(read(&write.instance)?, write, rest, position))
            }
        };
        answers.push(instance.fold(position, write, &mut ops));
    }
    Ok((ops, answers))
}

/// One instance, as the batch has left it so far.
struct Folding {
    present: Present,
    /// What the indexes list now; nothing for a quarantined instance or an unreadable head.
    listed: Option<HeadIndex>,
    repeat: Option<Repeat>,
}

/// The batch, or one like it, was stored before its answer was lost.
struct Repeat {
    /// The write whose head is the one stored.
    last: usize,
    /// The writes that led to it, itself included.
    applied: Vec<usize>,
}

impl Present {
    fn index(&self, id: &InstanceId) -> Option<HeadIndex> {
        HeadIndex::of_head(id, self.head.as_ref()?).ok()
    }

    fn listed(&self, id: &InstanceId) -> Option<HeadIndex> {
        if self.quarantined { None } else { self.index(id) }
    }
}

impl Folding {
    /// `rest` is the batch from the instance's first write on, which stands at `offset`.
    fn new(present: Present, first: &Write, rest: &[Write], offset: usize) -> Self {
        let id = &first.instance;
        let mut folding = Self { listed: present.listed(id), present, repeat: None };
        // Looked for only where it can matter: in a new batch the condition of the first write holds.
        if folding.check(first).is_err() {
            folding.repeat = Repeat::find(&folding.present, id, rest, offset);
        }
        folding
    }

    fn fold(&mut self, position: usize, write: &Write, ops: &mut Ops) -> Result<(), Conflict> {
        if let Some(repeat) = &self.repeat
            && position <= repeat.last
        {
            return if repeat.applied.contains(&position) { Ok(()) } else { Err(self.conflict(&write.instance)) };
        }
        self.check(write)?;
        let id = &write.instance;
        match &write.change {
            Change::Head(head) => {
                if self.present.quarantined {
                    ops.insert(keys::quarantine(id), None);
                }
                self.present.head = Some(head.clone());
                self.present.quarantined = false;
                ops.insert(keys::head(id), Some(head.clone()));
            }
            Change::Quarantine(record) => {
                self.present.quarantined = true;
                ops.insert(keys::quarantine(id), Some(record.clone()));
            }
        }
        self.relist(id, ops);
        for row in &write.rows {
            ops.insert(keys::row(write.run, &row.key), row.value.clone());
        }
        if let Some(run) = write.superseded {
            ops.insert(keys::superseded(run), Some(Bytes::new()));
        }
        Ok(())
    }

    fn check(&self, write: &Write) -> Result<(), Conflict> {
        let holds = match write.condition {
            Condition::Absent => self.present.head.is_none(),
            Condition::Present => self.present.head.is_some(),
            Condition::At { run, seq } => self.listed.is_some_and(|index| (index.run, index.seq) == (run, seq)),
        };
        if holds { Ok(()) } else { Err(self.conflict(&write.instance)) }
    }

    fn conflict(&self, id: &InstanceId) -> Conflict {
        Conflict { found: self.present.index(id).map(|index| (index.run, index.seq)) }
    }

    /// Brings the indexes in line with the head; an entry that stays is not touched.
    fn relist(&mut self, id: &InstanceId, ops: &mut Ops) {
        let now = self.present.listed(id);
        ops.extend(self.present.stale.drain(..).map(|key| (key, None)));
        let old: Vec<_> = self.listed.iter().flat_map(|index| keys::index_entries(id, index)).collect();
        let new: Vec<_> = now.iter().flat_map(|index| keys::index_entries(id, index)).collect();
        for key in old.iter().filter(|key| !new.contains(key)) {
            ops.insert(key.clone(), None);
        }
        for key in new.into_iter().filter(|key| !old.contains(key)) {
            ops.insert(key, Some(Bytes::new()));
        }
        self.listed = now;
    }
}

impl Repeat {
    /// Looks for the stored head in the batch, byte for byte, and walks back along the conditions.
    fn find(present: &Present, id: &InstanceId, rest: &[Write], offset: usize) -> Option<Self> {
        let stored = present.head.as_ref()?;
        let heads = rest.iter().enumerate().filter_map(|(at, write)| match &write.change {
            Change::Head(head) if write.instance == *id => Some((offset + at, write.condition, head)),
            _ => None,
        });
        let heads = heads.collect::<Vec<_>>();
        let mut walk = heads.iter().rev().skip_while(|(_, _, head)| *head != stored);
        let (last, mut condition, _) = *walk.next()?;
        let mut applied = vec![last];
        for (at, earlier, head) in walk {
            if let Condition::At { run, seq } = condition
                && position_of(id, head) == Some((run, seq))
            {
                applied.push(*at);
                condition = *earlier;
            }
        }
        Some(Self { last, applied })
    }
}

fn position_of(id: &InstanceId, head: &Bytes) -> Option<(RunId, u64)> {
    HeadIndex::of_head(id, head).ok().map(|index| (index.run, index.seq))
}
