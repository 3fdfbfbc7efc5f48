//! Finds the index entries and the run of an instance whose head cannot be read.
//!
//! A status entry holds both. It is found by its key, with one look at each status of each
//! definition, however much else is stored. Status entries of earlier versions are empty; then the
//! one other index that may list the instance is scanned, page by page.

use bytes::Bytes;

use super::{Kv, KvStore};
use crate::id::{InstanceId, RunId};
use crate::status::StatusCode;
use crate::store::{StoreError, keys};
use crate::time::Timestamp;

/// Entries read in one scan.
const PAGE: usize = 1_000;

/// The index entries and the run of an instance whose head cannot be read.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Trace {
    pub(in crate::store) entries: Vec<Vec<u8>>,
    pub(in crate::store) run: Option<RunId>,
}

impl<K: Kv> KvStore<K> {
    /// Finds the trace of an instance. A quarantined instance is in no index; its run was stored
    /// when it was quarantined.
    pub(super) fn trace(&self, id: &InstanceId, quarantined: bool) -> Result<Trace, StoreError> {
        if quarantined {
            let run = self.kv.get(&keys::run_of(id))?;
            return Ok(Trace { entries: Vec::new(), run: run.as_deref().and_then(keys::parse_run) });
        }
        // Uses hidden entries as far as they are rebuilt already: rebuilding waits for commits, and
        // this is one.
        for definition in Self::listed_definitions(|from, to, limit| self.list_seen(from, to, limit))? {
            for status in StatusCode::ALL {
                let key = keys::status(&definition, status, id);
                if let Some(entry) = self.certain(&key)? {
                    return self.trace_from(id, status, key, &entry);
                }
            }
        }
        Ok(Trace::default())
    }

    fn trace_from(
        &self,
        id: &InstanceId,
        status: StatusCode,
        key: Vec<u8>,
        entry: &Bytes,
    ) -> Result<Trace, StoreError> {
        let ends = keys::ended_prefix(status);
        let by_time = |at: Timestamp| {
            if status.is_terminal() { keys::ended(status, at, id) } else { keys::due(at, id) }
        };
        let at = match keys::parse_status_entry(entry) {
            Some((run, at)) => {
                return Ok(Trace { entries: std::iter::once(key).chain(at.map(by_time)).collect(), run: Some(run) });
            }
            None if status.is_terminal() => self.find_in(&ends, id)?,
            None => self.find_in(keys::DUES, id)?,
        };
        Ok(Trace { entries: std::iter::once(key).chain(at).collect(), run: None })
    }

    fn find_in(&self, prefix: &[u8], id: &InstanceId) -> Result<Option<Vec<u8>>, StoreError> {
        let (mut from, to) = (prefix.to_vec(), keys::behind(prefix));
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            if let Some((key, _)) = page.iter().find(|(key, _)| keys::is_at(key, prefix.len(), id)) {
                return Ok(Some(key.to_vec()));
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
                _ => return Ok(None),
            }
        }
    }
}
