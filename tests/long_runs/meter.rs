//! A count of writes and reads, which may end the process after a given write.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use everstep::store::{Answers, Change, Write};
use everstep::{BoxFuture, CancellationToken, MemoryStore, Store as _, StoreError};

use crate::through::Hooks;

/// Reads of heads and rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Meter {
    /// After this many writes no more are committed.
    writes_max: Option<usize>,
    pub(crate) over: CancellationToken,
    /// The bytes of each write.
    writes: Mutex<Vec<usize>>,
    records_read: AtomicUsize,
    bytes_read: AtomicUsize,
}

impl Meter {
    pub(crate) fn new(writes_max: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            writes_max,
            over: CancellationToken::new(),
            writes: Mutex::default(),
            records_read: AtomicUsize::new(0),
            bytes_read: AtomicUsize::new(0),
        })
    }

    pub(crate) fn writes(&self) -> Vec<usize> {
        self.writes.lock().unwrap().clone()
    }

    pub(crate) fn read_so_far(&self) -> Read {
        Read { records: self.records_read.load(Ordering::SeqCst), bytes: self.bytes_read.load(Ordering::SeqCst) }
    }
}

impl Hooks for Meter {
    fn commit<'a>(&'a self, store: &'a MemoryStore, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let writes = self.writes.lock().unwrap().len();
            let rest = self.writes_max.map_or(batch.len(), |max| max - writes);
            let answers = store.commit(&batch[..batch.len().min(rest)]).await?;
            self.writes.lock().unwrap().extend(batch.iter().map(bytes_of));
            if rest <= batch.len() && self.writes_max.is_some() {
                self.over.cancel();
                self.check()?;
            }
            Ok(answers)
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.over.is_cancelled() { Err(StoreError::Fatal("the process is gone".into())) } else { Ok(()) }
    }

    fn read(&self, records: usize, bytes: usize) {
        self.records_read.fetch_add(records, Ordering::SeqCst);
        self.bytes_read.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// Returns the bytes of the head, and of each row with its key.
fn bytes_of(write: &Write) -> usize {
    let Change::Head(head) = &write.change else { panic!("quarantined: {write:?}") };
    let rows = write.rows.iter();
    let row_bytes = rows.map(|row| row.key.to_bytes().len() + row.value.as_ref().map_or(0, bytes::Bytes::len));
    head.len() + row_bytes.sum::<usize>()
}
