//! Reads everything in a store and checks that it fits together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fjall::Snapshot;

use super::verification::{Finding, Verification};
use super::walk::Step;
use super::{FileStore, Open, Shared, fatal};
use crate::definition::Manifest;
use crate::id::{DefinitionHash, InstanceId, RunId};
use crate::limits::RUNS_VERIFIED_AT_ONCE;
use crate::machine::{Damaged, Envelope, HeadIndex, Kind, RowKey, decode_head, definition_of_era};
use crate::store::kv::Hole;
use crate::store::tables::{self, DamagedFile};
use crate::store::{StoreError, journal_repair, keys};

impl FileStore {
    /// Reads everything in the store, with or without a runtime using it, and lists damage and
    /// contradictions: checks every byte of the tables and journals, every head, row and index
    /// entry, and that the manifests of all definitions in use are there. Changes nothing; lists at
    /// most 10,000 findings.
    ///
    /// ```no_run
    /// # async fn verify() -> Result<(), everstep::StoreError> {
    /// let store = everstep::FileStore::open("./backups/2026-11-28").await?;
    /// let found = store.verify().await?;
    /// for finding in &found.findings {
    ///     println!("{finding}");
    /// }
    /// assert!(found.is_sound());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Records are read as of the moment the call begins, files as they are meanwhile. Memory is
    /// bounded: it holds the runs of 100,000 instances at a time, and reads all heads once more for
    /// each further 100,000. Commits and loads share the disk and the block cache with it.
    ///
    /// # Errors
    /// [`StoreError::Transient`] if the store was closed or reopened meanwhile;
    /// [`StoreError::Fatal`] if the disk fails. Damage is no error, but a finding.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        let store = self.clone();
        let verifying = tokio::task::spawn_blocking(move || store.verify_now());
        verifying.await.unwrap_or_else(|error| Err(fatal(error)))
    }

    fn verify_now(&self) -> Result<Verification, StoreError> {
        let shared = &self.kv.shared;
        let begun = shared.interruptions.load(Ordering::Acquire);
        self.kv.with(|open| {
            let snapshot = {
                // The database may show a batch half applied; the lock makes sure that no commit is
                // in progress.
                let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
                open.database.snapshot()
            };
            let (definitions, found) = (BTreeSet::new(), Verification::default());
            let mut look = Look { open, shared, snapshot, begun, definitions, found };
            look.at_files()?;
            look.at_heads_and_entries()?;
            look.at_rows()?;
            look.at_manifests()?;
            Ok(look.found)
        })
    }
}

/// A verification in progress.
struct Look<'a> {
    open: &'a Open,
    shared: &'a Shared,
    snapshot: Snapshot,
    /// Number of interruptions of the store when the verification began.
    begun: u64,
    /// The definitions that runs have now, or had before an upgrade.
    definitions: BTreeSet<DefinitionHash>,
    found: Verification,
}

/// Rows of one run, read one after the other.
#[derive(Default)]
struct RunOfRows {
    run: Option<RunId>,
    /// Number of rows that belong to no instance.
    orphans: u64,
    instance: Option<InstanceId>,
}

/// Runs and the instances that own them, from one run on.
type Runs = BTreeMap<[u8; 16], InstanceId>;

impl Look<'_> {
    fn go_on(&self) -> Result<(), StoreError> {
        // A caller that closes the store waits for this verification.
        if self.shared.interruptions.load(Ordering::Acquire) == self.begun {
            return Ok(());
        }
        Err(StoreError::Transient("the store was closed or reopened: verify it again".into()))
    }

    fn walk(
        &mut self,
        from: &[u8],
        to: &[u8],
        mut each: impl FnMut(&mut Self, Step) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (open, snapshot) = (self.open, self.snapshot.clone());
        open.walk(&snapshot, (from, to), |step| {
            self.go_on()?;
            each(self, step)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Returns the value of a key; empty if it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.open.get(&self.snapshot, key)
    }

    fn at_files(&mut self) -> Result<(), StoreError> {
        let directory = &self.shared.path;
        let mut tables = 0;
        let mut damaged = tables::check(directory, |_| {
            tables += 1;
            self.go_on()
        })?;
        let (journals, damaged_journals) = journal_repair::look(directory).map_err(fatal)?;
        damaged.extend(damaged_journals);
        self.found.files = tables + journals;
        for DamagedFile { path, why, is_unknown } in damaged {
            if is_unknown {
                return Err(StoreError::Fatal(format!("{} cannot be read: {why}", path.display()).into()));
            }
            self.found.find(Finding::File { path, why });
        }
        Ok(())
    }

    /// Checks everything but the rows of runs.
    fn at_heads_and_entries(&mut self) -> Result<(), StoreError> {
        let behind_all = [u8::MAX];
        self.walk(&keys::behind(keys::ROWS), &behind_all, |look, step| match step {
            Step::Hole(hole) => {
                look.found.find(Finding::Range(hole));
                Ok(())
            }
            Step::Entry(key, value) => match key.first() {
                Some(b'h') => look.at_head(&key, &value),
                Some(b'q') => look.at_quarantine(&key, &value),
                Some(b's') => look.at_entry(&key, "status", keys::instance(&key, keys::STATUS_PREFIX_BYTES)),
                Some(b't') => look.at_entry(&key, "due", keys::parse_due(&key).map(|(_, id)| id)),
                Some(b'z') => look.at_entry(&key, "end", keys::parse_ended(&key).map(|(_, id)| id)),
                _ => Ok(()),
            },
        })
    }

    fn damaged(&mut self, instance: &InstanceId, why: Damaged) {
        // Records of a newer version are not damaged.
        if !why.is_readable_elsewhere() {
            self.found.find(Finding::Record { instance: instance.clone(), why });
        }
    }

    fn is_quarantined(&self, id: &InstanceId) -> Result<bool, StoreError> {
        Ok(self.open.certain(&self.snapshot, &keys::quarantine(id))?.is_some())
    }

    fn at_head(&mut self, key: &[u8], head: &Bytes) -> Result<(), StoreError> {
        let Some(id) = keys::instance(key, keys::HEADS.len()) else { return Ok(()) };
        self.found.instances += 1;
        let index = match HeadIndex::of_head(&id, head).and_then(|index| decode_head(&id, head).map(|_| index)) {
            Ok(index) => index,
            Err(damaged) => {
                self.damaged(&id, damaged);
                return Ok(());
            }
        };
        self.definitions.insert(index.definition);
        if self.is_quarantined(&id)? {
            return Ok(());
        }
        for (entry, _) in keys::index_entries(&id, &index) {
            if self.get(&entry)?.is_none() {
                let index = keys::index_name(&entry);
                self.found.find(Finding::HeadWithoutEntry { instance: id.clone(), index });
            }
        }
        Ok(())
    }

    fn at_quarantine(&mut self, key: &[u8], record: &Bytes) -> Result<(), StoreError> {
        let Some(instance) = keys::instance(key, keys::QUARANTINES.len()) else { return Ok(()) };
        if let Err(damaged) = Envelope::open(&instance, Kind::Quarantine, &[], record) {
            self.damaged(&instance, damaged);
        }
        if self.get(&keys::head(&instance))?.is_none() {
            self.found.find(Finding::EntryWithoutHead { instance, index: "quarantine" });
        }
        Ok(())
    }

    fn at_entry(&mut self, key: &[u8], index: &'static str, id: Option<InstanceId>) -> Result<(), StoreError> {
        self.found.entries += 1;
        let Some(instance) = id else { return Ok(()) };
        let says = match self.get(&keys::head(&instance))? {
            None => None,
            Some(head) if head.is_empty() => {
                // Reported once, for the index that lists every instance.
                if index == "status" {
                    self.damaged(&instance, Damaged::new(&instance, "head", "it is in a damaged part of a table"));
                }
                return Ok(());
            }
            Some(head) => match HeadIndex::of_head(&instance, &head) {
                Ok(says) => Some(says),
                // Reported at the head's own key.
                Err(_) => return Ok(()),
            },
        };
        let is_right =
            says.is_some_and(|says| keys::index_entries(&instance, &says).any(|(entry, _)| entry.as_slice() == key));
        if !is_right || self.is_quarantined(&instance)? {
            self.found.find(Finding::EntryWithoutHead { instance, index });
        }
        Ok(())
    }

    fn at_rows(&mut self) -> Result<(), StoreError> {
        let mut from = keys::ROWS.to_vec();
        loop {
            let runs = self.runs_from(&from)?;
            let is_full = runs.len() >= RUNS_VERIFIED_AT_ONCE;
            let last = runs.last_key_value().map(|(run, _)| RunId::from_bytes(*run)).filter(|_| is_full);
            let to = keys::behind(&last.map_or_else(|| keys::ROWS.to_vec(), keys::rows));
            let mut of_run = RunOfRows::default();
            self.walk(&from, &to, |look, step| match step {
                Step::Entry(key, row) => look.at_row(&key, &row, &runs, &mut of_run),
                Step::Hole(hole) => {
                    look.at_hole_in_rows(hole, &runs);
                    Ok(())
                }
            })?;
            self.end_run(&mut of_run);
            if last.is_none() {
                return Ok(());
            }
            from = to;
        }
    }

    /// Returns the first runs from this key on that are named by heads, by status entries, or by
    /// the records kept for instances whose head cannot be read.
    fn runs_from(&mut self, from: &[u8]) -> Result<Runs, StoreError> {
        let mut runs = Runs::new();
        let mut add = |run: RunId, id: Option<InstanceId>| {
            if let Some(id) = id
                && keys::rows(run).as_slice() >= from
            {
                runs.insert(run.to_bytes(), id);
                if runs.len() > RUNS_VERIFIED_AT_ONCE {
                    runs.pop_last();
                }
            }
        };
        for prefix in [keys::HEADS, keys::RUNS, keys::STATUSES] {
            self.walk(prefix, &keys::behind(prefix), |_, step| {
                let Step::Entry(key, value) = step else { return Ok(()) };
                let (run, id) = match key.first() {
                    Some(b'h') => {
                        let id = keys::instance(&key, keys::HEADS.len());
                        (id.as_ref().and_then(|id| Some(HeadIndex::of_head(id, &value).ok()?.run)), id)
                    }
                    Some(b'r') => (keys::parse_run(&value), keys::instance(&key, keys::RUNS.len())),
                    _ => {
                        let run = keys::parse_status_entry(&value).map(|(run, _)| run);
                        (run, keys::instance(&key, keys::STATUS_PREFIX_BYTES))
                    }
                };
                if let Some(run) = run {
                    add(run, id);
                }
                Ok(())
            })?;
        }
        Ok(runs)
    }

    fn at_row(&mut self, key: &[u8], row: &Bytes, runs: &Runs, of_run: &mut RunOfRows) -> Result<(), StoreError> {
        let Some((run, row_key)) = keys::parse_row(key) else { return Ok(()) };
        self.found.rows += 1;
        if of_run.run != Some(run) {
            self.end_run(of_run);
            let instance = runs.get(&run.to_bytes()).cloned();
            *of_run = RunOfRows { run: Some(run), orphans: 0, instance };
            // Rows that are still to be swept rightly belong to no instance.
            if of_run.instance.is_none() && self.get(&keys::superseded(run))?.is_some() {
                of_run.run = None;
            }
        }
        let Some(instance) = &of_run.instance else {
            of_run.orphans += 1;
            return Ok(());
        };
        let Some(kind) = RowKey::kind_of(row_key) else { return Ok(()) };
        match Envelope::open(instance, kind, row_key, row) {
            Ok((envelope, body)) if envelope.run == run => {
                if kind == Kind::Era {
                    self.definitions.extend(definition_of_era(&body));
                }
            }
            Ok(_) => self.damaged(instance, Damaged::new(instance, kind.name(), "it belongs to another run")),
            Err(damaged) => self.damaged(instance, damaged),
        }
        Ok(())
    }

    fn at_manifests(&mut self) -> Result<(), StoreError> {
        for definition in std::mem::take(&mut self.definitions) {
            if self.get(&keys::manifest(&definition))?.is_none_or(|bytes| Manifest::decode(&bytes).is_none()) {
                self.found.find(Finding::NoManifest { definition });
            }
        }
        Ok(())
    }

    fn end_run(&mut self, of_run: &mut RunOfRows) {
        let RunOfRows { run, orphans, .. } = std::mem::take(of_run);
        if let Some(run) = run
            && orphans > 0
        {
            self.found.find(Finding::OrphanRows { run, rows: orphans });
        }
    }

    fn at_hole_in_rows(&mut self, hole: Hole, runs: &Runs) {
        let first = keys::parse_row(&hole.from).map_or([0; 16], |(run, _)| run.to_bytes());
        for (run, instance) in runs.range(first..) {
            let rows = keys::rows(RunId::from_bytes(*run));
            if rows >= hole.to {
                break;
            }
            self.found.find(Finding::Rows { instance: instance.clone() });
        }
        self.found.find(Finding::Range(hole));
    }
}
