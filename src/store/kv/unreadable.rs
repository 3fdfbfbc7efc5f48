//! What the indexes know of an instance whose head cannot be read: where they list it, and its run.
//!
//! A status entry says both. It is found by its key, whatever else is stored: a look at each status of each definition. Entries
//! of earlier versions say neither; then the one index that may list the instance is gone through, page by page.

use bytes::Bytes;

use super::{Kv, KvStore};
use crate::id::{InstanceId, RunId};
use crate::status::StatusCode;
use crate::store::{StoreError, keys};
use crate::time::Timestamp;

/// Entries looked at at once.
const PAGE: usize = 1_000;

/// Where an instance is listed whose head cannot be read.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Trace {
    pub(in crate::store) entries: Vec<Vec<u8>>,
    pub(in crate::store) run: Option<RunId>,
}

impl<K: Kv> KvStore<K> {
    /// One that was set aside is in no index; its run was kept then.
    pub(super) fn trace(&self, id: &InstanceId, quarantined: bool) -> Result<Trace, StoreError> {
        if quarantined {
            let run = self.kv.get(&keys::run_of(id))?;
            return Ok(Trace { entries: Vec::new(), run: run.as_deref().and_then(keys::parse_run) });
        }
        // As far as they can be seen without those that are made anew, which waits for commits, and this is one.
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
