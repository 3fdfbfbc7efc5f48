//! Lists and counts of instances.
//!
//! Instances come section by section: for each definition and status, then the quarantined ones;
//! within a section by id. A cursor is a position in that order, not an entry, so it stays valid
//! while instances come and go.

use std::collections::HashMap;
use std::sync::Arc;

use super::Runtime;
use super::cursor::{ListCursor, Section};
use crate::definition::Manifest;
use crate::id::{DefinitionHash, InstanceId};
use crate::machine::HeadIndex;
use crate::status::StatusCode;
use crate::store::{Store, StoreError};

/// Entries read from the store at a time.
const READ: usize = 1_000;

/// A filter of the instances to list or count. By default it selects all; every restriction must
/// hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    workflow: Option<Arc<str>>,
    definition: Option<DefinitionHash>,
    status: Option<StatusCode>,
}

impl InstanceFilter {
    /// Creates a filter that selects all instances.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects only instances of workflows with this name, of all versions and structures,
    /// registered here or not.
    pub fn workflow(mut self, name: impl Into<Arc<str>>) -> Self {
        self.workflow = Some(name.into());
        self
    }

    /// Selects only instances on this definition: [`Workflow::hash`](crate::Workflow::hash).
    pub fn definition(mut self, definition: DefinitionHash) -> Self {
        self.definition = Some(definition);
        self
    }

    /// Selects only instances in this status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

/// A page of instances, and the cursor of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstancePage {
    /// The instances, by definition, status and id; the quarantined ones last, by id.
    pub instances: Vec<InstanceSummary>,
    /// The start of the next page; `None` if there are no more instances.
    pub next: Option<ListCursor>,
}

/// An instance, as the store's indexes show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceSummary {
    /// The instance.
    pub instance: InstanceId,
    /// The status code; [`InstanceHandle::status`](crate::InstanceHandle::status) says more.
    pub status: StatusCode,
    /// The definition it runs on. `None` if it is quarantined and its head cannot be read.
    pub definition: Option<DefinitionHash>,
}

/// Error of listing or counting instances.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The runtime has shut down: list again with a new one.
    #[error("the runtime has shut down: list again with a new one")]
    ShuttingDown,
    /// The store failed: list again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Runtime {
    /// Lists up to `limit` instances, at least one, after the cursor `after` of the previous page;
    /// from the beginning without one. Shows the committed state. An instance that does not change
    /// between two pages is listed exactly once; one that changes its status in between may be
    /// listed in both or in neither. The cursor of another filter is valid too.
    ///
    /// Costs one seek for each definition and status, however many instances there are. Each
    /// quarantined instance is read, to find its definition.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn list(
        &self,
        filter: &InstanceFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<InstancePage, ListError> {
        let limit = limit.max(1);
        // One more tells whether there is a next page.
        let wanted = limit.saturating_add(1);
        let mut found: Vec<InstanceSummary> = Vec::new();
        let mut reader = self.reader(filter);
        for section in self.explain(reader.sections().await)? {
            let mut from = match after {
                Some(cursor) if section < cursor.section => continue,
                Some(cursor) if section == cursor.section => Some(cursor.after.clone()),
                _ => None,
            };
            while found.len() < wanted {
                let room = wanted.saturating_sub(found.len());
                let (listed, last) = self.explain(reader.page(section, from.as_ref(), room).await)?;
                found.extend(listed);
                from = last;
                if from.is_none() {
                    break;
                }
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(ListCursor::after);
        Ok(InstancePage { instances: found, next })
    }

    /// Counts the instances that [`Runtime::list`] would list. Reads the index entries of all of
    /// them, so it takes longer the more there are. Instances that change during the count may be
    /// counted or not.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn count(&self, filter: &InstanceFilter) -> Result<u64, ListError> {
        let mut count = 0;
        let mut reader = self.reader(filter);
        for section in self.explain(reader.sections().await)? {
            let mut from = None;
            loop {
                let (counted, last) = self.explain(reader.count(section, from.as_ref()).await)?;
                count += counted as u64;
                from = last;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(count)
    }

    fn reader<'a>(&'a self, filter: &'a InstanceFilter) -> Reader<'a> {
        Reader { store: &*self.inner.actors.shared().store, filter, chosen: HashMap::new() }
    }

    /// Turns a store error during a shutdown into [`ListError::ShuttingDown`]: the store is closed
    /// then.
    fn explain<T>(&self, read: Result<T, StoreError>) -> Result<T, ListError> {
        read.map_err(|error| match error {
            _ if self.inner.actors.shared().is_closing() => ListError::ShuttingDown,
            error => ListError::Store(error),
        })
    }
}

struct Reader<'a> {
    store: &'a dyn Store,
    filter: &'a InstanceFilter,
    /// Answers of the filter for the definitions seen so far.
    chosen: HashMap<DefinitionHash, bool>,
}

impl Reader<'_> {
    /// Returns the sections that may hold instances, in order.
    async fn sections(&mut self) -> Result<Vec<Section>, StoreError> {
        let mut definitions = match self.filter.definition {
            Some(definition) => vec![definition],
            None => self.store.definitions().await?,
        };
        definitions.sort_unstable();
        let mut sections = Vec::new();
        for definition in definitions {
            if self.wants(Some(definition)).await? {
                let indexed = StatusCode::ALL.into_iter().filter(|status| *status != StatusCode::Quarantined);
                let wanted = indexed.filter(|status| self.filter.status.is_none_or(|wanted| wanted == *status));
                sections.extend(wanted.map(|status| Section::Status(definition, status)));
            }
        }
        if self.filter.status.is_none_or(|wanted| wanted == StatusCode::Quarantined) {
            sections.push(Section::Quarantined);
        }
        Ok(sections)
    }

    /// Returns true if the filter selects instances of this definition.
    async fn wants(&mut self, definition: Option<DefinitionHash>) -> Result<bool, StoreError> {
        if !self.needs_definition() {
            return Ok(true);
        }
        let Some(definition) = definition else { return Ok(false) };
        if let Some(chosen) = self.chosen.get(&definition) {
            return Ok(*chosen);
        }
        let mut chosen = self.filter.definition.is_none_or(|wanted| wanted == definition);
        if let Some(workflow) = self.filter.workflow.as_deref().filter(|_| chosen) {
            let manifest = self.store.manifest(&definition).await?.and_then(|bytes| Manifest::decode(&bytes));
            chosen = manifest.is_some_and(|manifest| manifest.name == workflow);
        }
        self.chosen.insert(definition, chosen);
        Ok(chosen)
    }

    fn needs_definition(&self) -> bool {
        self.filter.workflow.is_some() || self.filter.definition.is_some()
    }

    /// Reads up to `limit` ids of a section. Also returns the id after which to read on, if there
    /// may be more.
    async fn ids(
        &self,
        section: Section,
        after: Option<&InstanceId>,
        limit: usize,
    ) -> Result<(Vec<InstanceId>, Option<InstanceId>), StoreError> {
        // Stores may block their thread while they read.
        tokio::task::yield_now().await;
        let limit = limit.min(READ);
        let ids = match section {
            Section::Status(definition, status) => self.store.instances(&definition, status, after, limit).await?,
            Section::Quarantined => self.store.quarantined(after, limit).await?,
        };
        let last = ids.last().filter(|_| ids.len() == limit).cloned();
        Ok((ids, last))
    }

    /// Reads up to `limit` instances of a section, perhaps none. Also returns the id after which to
    /// read on, if there may be more.
    async fn page(
        &mut self,
        section: Section,
        after: Option<&InstanceId>,
        limit: usize,
    ) -> Result<(Vec<InstanceSummary>, Option<InstanceId>), StoreError> {
        let (ids, last) = self.ids(section, after, limit).await?;
        let mut listed = Vec::with_capacity(ids.len());
        for instance in ids {
            let (definition, status) = match section {
                Section::Status(definition, status) => (Some(definition), status),
                Section::Quarantined => (self.definition_of(&instance).await?, StatusCode::Quarantined),
            };
            if self.wants(definition).await? {
                listed.push(InstanceSummary { instance, status, definition });
            }
        }
        Ok((listed, last))
    }

    async fn count(
        &mut self,
        section: Section,
        after: Option<&InstanceId>,
    ) -> Result<(usize, Option<InstanceId>), StoreError> {
        if section == Section::Quarantined && self.needs_definition() {
            let (listed, last) = self.page(section, after, READ).await?;
            return Ok((listed.len(), last));
        }
        let (ids, last) = self.ids(section, after, READ).await?;
        Ok((ids.len(), last))
    }

    async fn definition_of(&self, instance: &InstanceId) -> Result<Option<DefinitionHash>, StoreError> {
        let loaded = self.store.load(instance).await?;
        let index = loaded.and_then(|loaded| HeadIndex::of_head(instance, &loaded.head).ok());
        Ok(index.map(|index| index.definition))
    }
}
