//! From a batch of conditional writes to the keys they change: each key once, with its last value.

use std::collections::HashMap;

use bytes::Bytes;

use super::kv::Ops;
use super::{Answers, Change, Condition, Conflict, StoreError, Write, keys};
use crate::id::InstanceId;
use crate::machine::HeadIndex;

/// An instance as stored, or as the batch has left it so far.
#[derive(Clone, Default)]
pub(super) struct Present {
    pub(super) head: Option<Bytes>,
    pub(super) quarantined: bool,
}

struct Folding {
    /// What the indexes list now; nothing for a quarantined instance or an unreadable head.
    listed: Option<HeadIndex>,
    present: Present,
    /// The last head of this instance in the batch: if it is what is stored, the batch is a repeat.
    is_repeat: bool,
}

/// Checks each write against what the ones before it left. `read` gives an instance as stored.
pub(super) fn fold(
    batch: &[Write],
    mut read: impl FnMut(&InstanceId) -> Result<Present, StoreError>,
) -> Result<(Ops, Answers), StoreError> {
    let mut last_heads = HashMap::with_capacity(batch.len());
    for write in batch {
        if let Change::Head(head) = &write.change {
            last_heads.insert(&write.instance, head);
        }
    }
    let mut folding: HashMap<&InstanceId, Folding> = HashMap::with_capacity(batch.len());
    let mut ops = Ops::new();
    let mut answers = Vec::with_capacity(batch.len());
    for write in batch {
        let instance = match folding.entry(&write.instance) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let present = read(&write.instance)?;
                let is_repeat = present.head.is_some() && present.head.as_ref() == last_heads.get(&write.instance).copied();
                entry.insert(Folding { listed: present.listed(&write.instance), present, is_repeat })
            }
        };
        answers.push(instance.fold(write, &mut ops));
    }
    Ok((ops, answers))
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
    fn fold(&mut self, write: &Write, ops: &mut Ops) -> Result<(), Conflict> {
        if self.is_repeat {
            return Ok(());
        }
        self.check(write)?;
        let id = &write.instance;
        match &write.change {
            Change::Head(head) => {
                if self.present.quarantined {
                    ops.insert(keys::quarantine(id), None);
                }
                self.present = Present { head: Some(head.clone()), quarantined: false };
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
        if holds {
            return Ok(());
        }
        let found = self.present.index(&write.instance).map(|index| (index.run, index.seq));
        Err(Conflict { found })
    }

    /// Brings the indexes in line with the head; an entry that stays is not touched.
    fn relist(&mut self, id: &InstanceId, ops: &mut Ops) {
        let now = self.present.listed(id);
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
