//! Reads the rows of a run that values refer to.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{LoadError, era};
use crate::codec::{Home, Place, Token, Value};
use crate::definition::{Manifest, NodeNames};
use crate::id::NodePath;
use crate::limits::NESTING_MAX;
use crate::machine::{Damaged, RowKey, RowPlace, Snapshot};
use crate::store::{Store, StoreError};

/// Most levels that parts of a value may nest: more than any definition produces, and few enough
/// for the stack.
const PARTS_DEPTH_MAX: usize = 4 * NESTING_MAX;
/// Most times that a part may be found again, on average over all parts: branches may all hold the
/// input that they share.
const FOUND_AGAIN_MAX: usize = 256;

/// Most rows of lists that are kept for the next run.
const LIST_ROWS_KEPT: usize = 16;
/// Most names of nodes in earlier eras that are kept for the next run: as many as one value is
/// likely to refer to.
const PATHS_KEPT: usize = 64;

/// Parts read for one run that may serve the next: items that start in turn are mostly in the same
/// row of their list.
#[derive(Default)]
pub(crate) struct RowCache {
    /// Rows of lists, by their place and number.
    lists: HashMap<(Place, u32), Vec<Token>>,
    /// Names of nodes by era and index, for eras before the current one.
    paths: HashMap<(u32, u32), NodePath>,
}

/// The rows of a run that hold values, as far as they were read.
pub(super) struct Rows<'a> {
    store: &'a dyn Store,
    names: &'a dyn NodeNames,
    read: HashMap<Home, Vec<Token>>,
    /// The node names of earlier eras, each read once. Not kept for the next run: a manifest may be
    /// large, and many instances active.
    eras: HashMap<u32, Manifest>,
    cache: RowCache,
}

impl<'a> Rows<'a> {
    pub(super) fn new(store: &'a dyn Store, names: &'a dyn NodeNames) -> Self {
        Self::with(store, names, RowCache::default())
    }

    pub(super) fn with(store: &'a dyn Store, names: &'a dyn NodeNames, mut cache: RowCache) -> Self {
        if cache.lists.len() > LIST_ROWS_KEPT {
            cache.lists.clear();
        }
        if cache.paths.len() > PATHS_KEPT {
            cache.paths.clear();
        }
        Self { store, names, read: HashMap::new(), eras: HashMap::new(), cache }
    }

    pub(super) fn into_cache(self) -> RowCache {
        self.cache
    }

    /// Reads the values at these homes and fills them into the snapshot.
    pub(super) async fn read_into(&mut self, snapshot: &mut Snapshot, homes: Vec<Home>) -> Result<(), LoadError> {
        self.read(snapshot, homes).await?;
        snapshot.fill(&self.read);
        Ok(())
    }

    /// Reads everything that a value refers to, at any depth.
    pub(super) async fn complete(&mut self, snapshot: &Snapshot, value: &mut Value) -> Result<(), LoadError> {
        let (mut found, mut parts) = (0, HashSet::new());
        for _ in 0..PARTS_DEPTH_MAX {
            let unread = value.unread();
            if unread.is_empty() {
                return Ok(());
            }
            found += unread.len();
            parts.extend(unread.iter().cloned());
            if found > FOUND_AGAIN_MAX * parts.len() {
                break;
            }
            self.read(snapshot, unread).await?;
            value.fill(&|home: &Home| self.read.get(home).cloned());
        }
        // Rows that contain themselves, or each other many times over, would fill the memory.
        Err(Damaged::new(snapshot.instance(), "value", "it refers to itself").into())
    }

    async fn read(&mut self, snapshot: &Snapshot, homes: Vec<Home>) -> Result<(), LoadError> {
        for home in homes {
            if !self.read.contains_key(&home) {
                self.read_home(snapshot, home).await?;
            }
        }
        Ok(())
    }

    async fn read_home(&mut self, snapshot: &Snapshot, home: Home) -> Result<(), LoadError> {
        match &home {
            Home::Input => self.read_row(snapshot, &home, &RowKey::Input).await,
            Home::Result(place) => {
                let key = RowKey::Result(self.row_place(snapshot, place).await?);
                self.read_row(snapshot, &home, &key).await
            }
            Home::List(place, count) => self.read_list(snapshot, place, *count).await,
            Home::Item(place, row, index) => {
                let item = self.list_row(snapshot, place, *row).await?.get(*index as usize).cloned();
                let item = item.ok_or_else(|| Damaged::new(snapshot.instance(), "list", "an item is missing"))?;
                self.read.insert(home, vec![item]);
                Ok(())
            }
            Home::Branch(place, index) => {
                let key = RowKey::Branch(self.row_place(snapshot, place).await?, *index);
                self.read_row(snapshot, &home, &key).await
            }
            Home::Branches(place, count) => {
                // Read before memory is allocated for the number of branches that the head claims.
                self.read_branches(snapshot, place, *count).await?;
                let branches = (0..*count).map(|index| Token::Stored(Home::Branch(place.clone(), index)));
                let tokens = std::iter::once(Token::List(*count)).chain(branches).collect();
                self.read.insert(home, tokens);
                Ok(())
            }
        }
    }

    async fn read_row(&mut self, snapshot: &Snapshot, home: &Home, key: &RowKey) -> Result<(), LoadError> {
        let row = self.store.row(snapshot.run(), key).await?;
        let row = row.ok_or_else(|| missing(snapshot, key))?;
        self.read.insert(home.clone(), snapshot.open_value(key, &row)?.into_tokens());
        Ok(())
    }

    /// Returns the items in one row of a list; the row is read once for all of them.
    async fn list_row(&mut self, snapshot: &Snapshot, place: &Place, number: u32) -> Result<&[Token], LoadError> {
        let at = (place.clone(), number);
        if !self.cache.lists.contains_key(&at) {
            let key = RowKey::List(self.row_place(snapshot, place).await?, number);
            let row = self.store.row(snapshot.run(), &key).await?.ok_or_else(|| missing(snapshot, &key))?;
            self.cache.lists.insert(at.clone(), snapshot.open_value(&key, &row)?.into_tokens());
        }
        Ok(self.cache.lists.get(&at).map_or(&[][..], Vec::as_slice))
    }

    /// Reads a whole list. The length of its first row gives the number of rows.
    async fn read_list(&mut self, snapshot: &Snapshot, place: &Place, count: u32) -> Result<(), LoadError> {
        let per_row = u32::try_from(self.list_row(snapshot, place, 0).await?.len()).unwrap_or(u32::MAX);
        let place_of_rows = self.row_place(snapshot, place).await?;
        let rows = self.first_rows(snapshot, &RowKey::lists(&place_of_rows), count.div_ceil(per_row.max(1))).await?;
        let mut tokens = vec![Token::List(count)];
        for (row, number) in rows.iter().flatten().zip(0..) {
            let key = RowKey::List(place_of_rows.clone(), number);
            tokens.extend(snapshot.open_value(&key, row)?.into_tokens());
        }
        if tokens.len() != count as usize + 1 {
            return Err(Damaged::new(snapshot.instance(), "list", "items are missing").into());
        }
        self.read.insert(Home::List(place.clone(), count), tokens);
        Ok(())
    }

    /// Reads the results of all branches.
    async fn read_branches(&mut self, snapshot: &Snapshot, place: &Place, count: u32) -> Result<(), LoadError> {
        let place_of_rows = self.row_place(snapshot, place).await?;
        let rows = self.first_rows(snapshot, &RowKey::branches(&place_of_rows), count).await?;
        let rows = rows.ok_or_else(|| Damaged::new(snapshot.instance(), "branch", "it is missing"))?;
        for (row, index) in rows.iter().zip(0..) {
            let key = RowKey::Branch(place_of_rows.clone(), index);
            let tokens = snapshot.open_value(&key, row)?.into_tokens();
            self.read.insert(Home::Branch(place.clone(), index), tokens);
        }
        Ok(())
    }

    /// Returns the first `count` rows numbered under a prefix, in scans of 256; none if one is
    /// missing. Rows of a longer list of an earlier iteration may follow them; only the last scan
    /// meets some of those.
    async fn first_rows(
        &self,
        snapshot: &Snapshot,
        prefix: &[u8],
        count: u32,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let mut found = Vec::new();
        for block in 0..count.div_ceil(1 << 8) {
            let [_, block @ ..] = block.to_be_bytes();
            let rows = self.store.rows(snapshot.run(), &[prefix, &block].concat(), None).await?;
            let wanted = (count as usize - found.len()).min(1 << 8);
            if rows.len() < wanted {
                return Ok(None);
            }
            found.extend(rows.into_iter().map(|(_, row)| row).take(wanted));
        }
        Ok(Some(found))
    }

    async fn row_place(&mut self, snapshot: &Snapshot, place: &Place) -> Result<RowPlace, LoadError> {
        let Place { era, node, ref indices } = *place;
        let path = if era == snapshot.era() {
            self.names.path(node).cloned()
        } else if let Some(path) = self.cache.paths.get(&(era, node)) {
            Some(path.clone())
        } else {
            if let Entry::Vacant(unread) = self.eras.entry(era) {
                unread.insert(era::names(self.store, snapshot, era).await?);
            }
            let path = self.eras.get(&era).and_then(|names| names.path(node)).cloned();
            self.cache.paths.extend(path.clone().map(|path| ((era, node), path)));
            path
        };
        let unknown = || Damaged::new(snapshot.instance(), "head", "it refers to a node that is not in its definition");
        Ok(RowPlace { era, path: path.ok_or_else(unknown)?, indices: indices.clone() })
    }
}

/// Returns the total of a map's list, as its first row says; none if the list is missing.
pub(super) async fn list_total(
    store: &dyn Store,
    snapshot: &Snapshot,
    place: RowPlace,
) -> Result<Option<Option<u32>>, LoadError> {
    let key = RowKey::List(place, 0);
    let Some(first) = store.row(snapshot.run(), &key).await? else { return Ok(None) };
    Ok(Some(snapshot.open_total(&key, &first)?))
}

fn missing(snapshot: &Snapshot, key: &RowKey) -> Damaged {
    Damaged::new(snapshot.instance(), key.kind().name(), "it is missing")
}
