//! An estimate of the memory that an instance takes.
//!
//! An exact sum goes through all frames, which is too much for each event. The sum is computed
//! again after as many changes as an eighth of the instance's rows. Until then the bytes written
//! are added to it, since all that enters memory is also written.

use crate::machine::Snapshot;

/// The fewest changes after which the sum is computed again.
const CHANGES_MIN: usize = 16;

/// The last sum, and the changes since.
#[derive(Debug, Default)]
pub(super) struct Weight {
    last: Option<Weighing>,
    /// The bytes written since the last sum.
    written: usize,
}

#[derive(Debug)]
struct Weighing {
    seq: u64,
    rows: usize,
    bytes: usize,
}

impl Weight {
    /// Counts the bytes of a write.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Estimates the bytes of memory that the snapshot takes.
    pub(super) fn of(&mut self, snapshot: &Snapshot) -> usize {
        let (seq, rows) = (snapshot.seq(), snapshot.live_rows());
        let is_recent = |last: &Weighing| {
            let steps = usize::try_from(seq.abs_diff(last.seq)).unwrap_or(usize::MAX);
            steps.saturating_add(rows.abs_diff(last.rows)) <= CHANGES_MIN.max(rows / 8)
        };
        if let Some(last) = self.last.as_ref().filter(|last| is_recent(last)) {
            return last.bytes + self.written;
        }
        let bytes = snapshot.memory_bytes();
        *self = Self { last: Some(Weighing { seq, rows, bytes }), written: 0 };
        bytes
    }
}
