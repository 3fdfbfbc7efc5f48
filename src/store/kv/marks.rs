//! Marks before which an index holds no keys. Consuming an index from its front leaves deleted keys
//! there, which a map may have to skip one by one until it has cleared them away. With a mark they
//! are skipped once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Ops;
use crate::store::keys;

/// Most groups of keys that have a mark; one more replaces the first one.
const MARKS_MAX: usize = 4_096;

/// One mark for each group of keys that was read from its front: the group has no key below the
/// mark.
#[derive(Debug, Default)]
pub(in crate::store) struct Marks(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    marks: BTreeMap<Vec<u8>, Mark>,
    /// The least key of each group in the batch that is being written: readers may not see it yet.
    under_way: Vec<(Vec<u8>, Vec<u8>)>,
    /// Number of times that everything was forgotten.
    epoch: u64,
}

#[derive(Debug)]
struct Mark {
    at: Vec<u8>,
    readers: usize,
    /// The least key written since the first of the current readers began, which that reader may
    /// not have seen.
    written: Option<Vec<u8>>,
}

/// A read from the front of a group, under way.
pub(super) struct Reading {
    group: Vec<u8>,
    epoch: u64,
    pub(super) from: Vec<u8>,
}

impl Marks {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read; none if it does not begin at the front of a group.
    pub(super) fn begin(&self, from: &[u8]) -> Option<Reading> {
        let group = keys::group(from)?;
        let mut groups = self.groups();
        let Groups { marks, under_way, epoch } = &mut *groups;
        if !marks.contains_key(group) {
            if from != group {
                return None;
            }
            if marks.len() >= MARKS_MAX {
                let unread = marks.iter().find(|(_, mark)| mark.readers == 0).map(|(group, _)| group.clone());
                marks.remove(&unread?);
            }
            marks.insert(group.to_vec(), Mark { at: group.to_vec(), readers: 0, written: None });
        }
        let mark = marks.get_mut(group)?;
        if from > mark.at.as_slice() {
            return None;
        }
        if mark.readers == 0 {
            mark.written = under_way.iter().find(|(other, _)| other == group).map(|(_, key)| key.clone());
        }
        mark.readers += 1;
        Some(Reading { group: group.to_vec(), epoch: *epoch, from: mark.at.clone() })
    }

    /// Ends a read that found no key below `first`.
    pub(super) fn end(&self, Reading { group, epoch, .. }: Reading, first: &[u8]) {
        let mut groups = self.groups();
        if groups.epoch != epoch {
            return;
        }
        let Some(mark) = groups.marks.get_mut(&group) else { return };
        let first = mark.written.as_deref().map_or(first, |written| written.min(first));
        if first > mark.at.as_slice() {
            mark.at = first.to_vec();
        }
        mark.readers = mark.readers.saturating_sub(1);
        let says_nothing = mark.at.strip_prefix(&*group).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        if mark.readers == 0 && says_nothing {
            groups.marks.remove(&group);
        }
    }

    /// Notes the keys that a batch is about to set. Batches are written one after the other.
    pub(super) fn begin_write(&self, ops: &Ops) {
        let mut groups = self.groups();
        // A write that panicked never ended.
        groups.under_way.clear();
        let mut last: &[u8] = &[];
        for (key, _) in ops.iter().filter(|(_, value)| value.is_some()) {
            let Some(group) = keys::group(key) else { continue };
            // Keys come in order, so that the first one of a group is its least.
            if group == last {
                continue;
            }
            last = group;
            groups.under_way.push((group.to_vec(), key.clone()));
            let Some(mark) = groups.marks.get_mut(group) else { continue };
            if key < &mark.at {
                mark.at.clone_from(key);
            }
            if mark.readers > 0 && mark.written.as_ref().is_none_or(|written| key < written) {
                mark.written = Some(key.clone());
            }
        }
    }

    /// Ends a write: the batch is visible to every read that begins now, or never will be.
    pub(super) fn end_write(&self) {
        self.groups().under_way.clear();
    }

    /// Forgets everything: deleted keys may be back.
    pub(super) fn clear(&self) {
        let mut groups = self.groups();
        groups.marks.clear();
        groups.under_way.clear();
        groups.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(key: &[u8]) -> Ops {
        Ops::from([(key.to_vec(), Some(Bytes::new()))])
    }

    fn mark(marks: &Marks) -> Vec<u8> {
        let reading = marks.begin(b"t").unwrap();
        let from = reading.from.clone();
        marks.end(reading, b"t");
        from
    }

    /// Method: write a key while a read is in progress that does not see it: a key written before
    /// the read began, and one written after.
    #[test]
    fn a_key_that_a_reader_may_not_have_seen_is_not_passed_by() {
        for begins_first in [true, false] {
            let marks = Marks::default();
            let early = begins_first.then(|| marks.begin(b"t").unwrap());
            marks.begin_write(&batch(b"t5"));
            let reading = early.unwrap_or_else(|| marks.begin(b"t").unwrap());
            marks.end(reading, b"t9");
            marks.end_write();
            assert_eq!(mark(&marks), b"t5", "the reader begins first: {begins_first}");
        }
    }

    /// Method: let a write panic; then write a lower key of its group, while a read is in progress
    /// that sees neither.
    #[test]
    fn a_write_that_panicked_hides_no_key_of_the_next_one() {
        for is_reopened in [true, false] {
            let marks = Marks::default();
            marks.begin_write(&batch(b"t8"));
            if is_reopened {
                marks.clear();
                assert!(marks.groups().under_way.is_empty());
            }
            marks.begin_write(&batch(b"t5"));
            let reading = marks.begin(b"t").unwrap();
            marks.end(reading, b"t9");
            marks.end_write();
            assert_eq!(mark(&marks), b"t5", "opened anew: {is_reopened}");
        }
    }

    #[test]
    fn a_mark_goes_to_the_first_key_and_back_to_what_is_written() {
        let marks = Marks::default();
        marks.end(marks.begin(b"t").unwrap(), b"t9");
        assert_eq!(mark(&marks), b"t9");
        assert!(marks.begin(b"t99").is_none(), "does not begin at the front");
        marks.begin_write(&batch(b"t7"));
        marks.end_write();
        assert_eq!(mark(&marks), b"t7");
    }

    /// Method: forget everything while a read is in progress.
    #[test]
    fn a_reader_of_what_was_forgotten_leaves_no_mark() {
        let marks = Marks::default();
        let reading = marks.begin(b"t").unwrap();
        marks.clear();
        marks.end(reading, b"t9");
        assert_eq!(mark(&marks), b"t");
    }

    #[test]
    fn marks_are_a_bounded_number() {
        let marks = Marks::default();
        for run in 0..10_000_u128 {
            let group = [&b"s"[..], &run.to_be_bytes(), &[0; 17]].concat();
            marks.end(marks.begin(&group).unwrap(), &[&group[..], &[1]].concat());
        }
        assert_eq!(marks.groups().marks.len(), MARKS_MAX);
    }
}
