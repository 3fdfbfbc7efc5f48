//! From a batch of conditional writes to the keys they change: each key once, with its last value.

use std::collections::hash_map::Entry;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use super::kv::Ops;
use super::{Answers, Change, Condition, Conflict, StoreError, Write, keys};
use crate::id::{InstanceId, RunId};
use crate::machine::HeadIndex;

/// An instance as stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    pub(super) head: Option<Bytes>,
    /// What the head says of itself; none if it cannot be read.
    pub(super) index: Option<HeadIndex>,
    pub(super) quarantined: bool,
    /// Its index entries, if the head cannot be read and so cannot say which they are.
    pub(super) stale: Vec<Vec<u8>>,
}

/// What comes of a batch.
pub(super) struct Folded<'a> {
    pub(super) ops: Ops,
    pub(super) answers: Answers,
    /// The instances it looked at, as it leaves them.
    pub(super) left: Vec<(&'a InstanceId, Present)>,
}

/// Checks each write against what the ones before it left. `read` gives an instance as stored.
pub(super) fn fold(
    batch: &[Write],
    mut read: impl FnMut(&InstanceId) -> Result<Present, StoreError>,
) -> Result<Folded<'_>, StoreError> {
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
    let left = folding.into_iter().map(|(id, folding)| (id, folding.present)).collect();
    Ok(Folded { ops, answers, left })
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
    /// The last write that left the instance as it is stored.
    last: usize,
    /// The writes up to there that were done.
    applied: Vec<usize>,
}

/// An instance as far as conditions and repeats look at it.
#[derive(Clone, Copy)]
struct Standing<'a> {
    is_there: bool,
    /// Its run and last transition; none if it is quarantined or its head cannot be read.
    at: Option<(RunId, u64)>,
    /// Its head, if that is known.
    head: Option<&'a Bytes>,
}

impl Present {
    /// What the indexes list of it.
    fn listed(&self) -> Option<HeadIndex> {
        if self.quarantined { None } else { self.index }
    }

    fn set_head(&mut self, id: &InstanceId, head: Option<Bytes>) {
        self.index = head.as_ref().and_then(|head| HeadIndex::of_head(id, head).ok());
        self.head = head;
        self.quarantined = false;
    }
}

impl Folding {
    /// `rest` is the batch from the instance's first write on, which stands at `offset`.
    fn new(present: Present, first: &Write, rest: &[Write], offset: usize) -> Self {
        let id = &first.instance;
        let mut folding = Self { listed: present.listed(), present, repeat: None };
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
            return if repeat.applied.contains(&position) { Ok(()) } else { Err(self.conflict()) };
        }
        self.check(write)?;
        let id = &write.instance;
        match &write.change {
            Change::Delete if self.present.head.is_none() => return Ok(()),
            Change::Delete => {
                if self.present.quarantined {
                    ops.insert(keys::quarantine(id), None);
                }
                self.present.set_head(id, None);
                ops.insert(keys::head(id), None);
            }
            Change::Head(head) => {
                if self.present.quarantined {
                    ops.insert(keys::quarantine(id), None);
                }
                self.present.set_head(id, Some(head.clone()));
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
        let at = self.listed.map(|index| (index.run, index.seq));
        let standing = Standing { is_there: self.present.head.is_some(), at, head: self.present.head.as_ref() };
        if standing.meets(write) { Ok(()) } else { Err(self.conflict()) }
    }

    fn conflict(&self) -> Conflict {
        Conflict { found: self.present.index.map(|index| (index.run, index.seq)) }
    }

    /// Brings the indexes in line with the head; an entry that stays is not touched.
    fn relist(&mut self, id: &InstanceId, ops: &mut Ops) {
        let now = self.present.listed();
        ops.extend(self.present.stale.drain(..).map(|key| (key, None)));
        // The usual transition of a run moves nothing.
        if let (Some(old), Some(new)) = (&self.listed, &now)
            && old.is_listed_as(new)
        {
            self.listed = now;
            return;
        }
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
    /// Looks for the first write from which on the batch leads to what is stored: a head byte for byte, or nothing after a
    /// delete. `rest` begins at `offset`.
    fn find(present: &Present, id: &InstanceId, rest: &[Write], offset: usize) -> Option<Self> {
        let stored = present.head.as_ref();
        let writes = (offset..).zip(rest).filter(|(_, write)| write.instance == *id).collect::<Vec<_>>();
        let leads_there = |write: &Write| match &write.change {
            Change::Head(head) => stored == Some(head),
            Change::Delete => stored.is_none(),
            Change::Quarantine(_) => false,
        };
        // Most batches whose first write is refused are no repeats.
        let reach = writes.iter().rposition(|(_, write)| leads_there(write))? + 1;
        let writes = writes.get(..reach)?;
        (0..reach).find_map(|first| Self::from(writes.get(first..)?, stored))
    }

    /// Goes through the writes as if the first had found what it asked for.
    fn from(writes: &[(usize, &Write)], stored: Option<&Bytes>) -> Option<Self> {
        let (_, first) = writes.first()?;
        let mut standing = Standing::as_asked(first.condition);
        let (mut applied, mut last) = (Vec::new(), None);
        for (position, write) in writes {
            if standing.meets(write) {
                standing = standing.after(write);
                applied.push(*position);
                // Without a head it may be there all the same, unknown.
                if standing.head == stored && standing.is_there == stored.is_some() {
                    last = Some(*position);
                }
            }
        }
        last.map(|last| Self { last, applied })
    }
}

impl<'a> Standing<'a> {
    /// The least that can be known of an instance that meets a condition.
    fn as_asked(condition: Condition) -> Self {
        let at = match condition {
            Condition::At { run, seq } => Some((run, seq)),
            Condition::Absent | Condition::Present => None,
        };
        Self { is_there: condition != Condition::Absent, at, head: None }
    }

    fn meets(self, write: &Write) -> bool {
        match write.condition {
            _ if matches!(write.change, Change::Delete) && !self.is_there => true,
            Condition::Absent => !self.is_there,
            Condition::Present => self.is_there,
            Condition::At { run, seq } => self.at == Some((run, seq)),
        }
    }

    fn after<'b>(self, write: &'b Write) -> Standing<'b>
    where
        'a: 'b,
    {
        match &write.change {
            Change::Head(head) => {
                let index = HeadIndex::of_head(&write.instance, head).ok();
                Standing { is_there: true, at: index.map(|index| (index.run, index.seq)), head: Some(head) }
            }
            Change::Quarantine(_) => Self { at: None, ..self },
            Change::Delete => Self { is_there: false, at: None, head: None },
        }
    }
}
