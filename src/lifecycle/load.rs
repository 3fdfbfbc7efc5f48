//! Reading an instance back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{Home, Place, Token, Value};
use crate::definition::{Names, Program};
use crate::id::{InstanceId, NodePath};
use crate::limits::NESTING_MAX;
use crate::machine::{Damaged, RowKey, Run, Snapshot, decode_head, decode_quarantine};
use crate::status::Status;
use crate::store::{Loaded, Store, StoreError, Version};

/// Why an instance could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A record is damaged. The instance is set aside, its bytes stay as they are.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An instance as stored: its head, without the payloads and signals that stand in rows of their own.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The state; [`fill`] completes it.
    pub snapshot: Snapshot,
    /// Why it is quarantined, if it is.
    pub quarantine: Option<Arc<str>>,
    /// Where it stands: what a write must name that builds on this.
    pub version: Version,
}

/// An instance as found, whether it can be read or not.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: Version,
    pub(crate) quarantine: Option<Arc<str>>,
    pub(crate) snapshot: Result<Snapshot, Damaged>,
}

impl Stored {
    /// The status, with the names of the instance's definition.
    pub fn status(&self, names: &dyn Names) -> Status {
        match &self.quarantine {
            Some(reason) => Status::Quarantined { reason: Arc::clone(reason) },
            None => self.snapshot.status(names),
        }
    }
}

/// Reads an instance's head.
///
/// # Errors
/// [`LoadError`].
pub async fn load(store: &dyn Store, instance: &InstanceId) -> Result<Option<Stored>, LoadError> {
    let Some(Found { version, quarantine, snapshot }) = find(store, instance).await? else { return Ok(None) };
    Ok(Some(Stored { snapshot: snapshot?, quarantine, version }))
}

/// Looks for an instance. One whose head cannot be read is there all the same, and may be quarantined already.
pub(crate) async fn find(store: &dyn Store, instance: &InstanceId) -> Result<Option<Found>, StoreError> {
    Ok(store.load(instance).await?.map(|loaded| Found::of(instance, loaded)))
}

impl Found {
    /// What a head and a quarantine record say.
    pub(crate) fn of(instance: &InstanceId, loaded: Loaded) -> Self {
        let (version, snapshot) = (loaded.version(instance), decode_head(instance, &loaded.head));
        let quarantine = loaded.quarantine.map(|record| decode_quarantine(instance, &record));
        Self { version, quarantine, snapshot }
    }
}

/// Reads the branches and signals of a snapshot and the items of lists that they carry, and checks that it stands where its
/// program says it can. What else its frames carry is read when it is needed: [`fill_values`], [`fill_run`].
///
/// # Errors
/// [`LoadError`].
pub async fn fill_frames(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    read_branches(store, snapshot).await?;
    snapshot.check(program)?;
    read_items(store, program, snapshot).await?;
    read_signals(store, snapshot).await
}

/// Reads the items of lists that frames carry: many stand in one row, which is read once for all of them.
async fn read_items(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let homes = snapshot.unread_items();
    if !homes.is_empty() {
        let mut rows = Rows::new(store, program);
        rows.read(snapshot, homes).await?;
        snapshot.fill(&rows.read);
    }
    Ok(())
}

/// Reads the signals that a snapshot buffers. The ids of those remembered are looked up one by one: [`read_signal_id`].
///
/// # Errors
/// [`LoadError`].
pub async fn read_signals(store: &dyn Store, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    if snapshot.has_signals() {
        let from = snapshot.first_signal_row();
        for (number, row) in numbered(store.rows(snapshot.run(), RowKey::SIGNALS, Some(&from)).await?) {
            snapshot.take_signal_row(number, &row)?;
        }
    }
    Ok(())
}

/// Looks up whether a signal with this id is a repeated one. Call it before [`Event::Signal`](crate::machine::Event::Signal).
/// Reads two rows at most, and none where the snapshot knows all ids.
///
/// # Errors
/// [`LoadError`].
pub async fn read_signal_id(store: &dyn Store, snapshot: &mut Snapshot, id: &Arc<str>) -> Result<(), LoadError> {
    for key in snapshot.unread_signal_rows(id) {
        let row = store.row(snapshot.run(), &key).await?;
        snapshot.take_remembered(&key, row.as_ref())?;
    }
    Ok(())
}

/// Reads the branches of a snapshot.
///
/// # Errors
/// [`LoadError`].
pub async fn read_branches(store: &dyn Store, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    if snapshot.unread_frames() > 0 {
        let from = snapshot.first_frame_row();
        let rows = store.rows(snapshot.run(), RowKey::FRAMES, Some(&from)).await?;
        snapshot.take_frame_rows(numbered(rows))?;
    }
    Ok(())
}

/// Whether the instance was moved since its head was read. Head and rows are read one by one: what was read does not belong
/// together then, which looks as if something was damaged.
pub(crate) async fn has_moved(store: &dyn Store, snapshot: &Snapshot) -> Result<bool, StoreError> {
    let Some(loaded) = store.load(snapshot.instance()).await? else { return Ok(true) };
    Ok(loaded.version(snapshot.instance()).head != Version::from(snapshot).head)
}

/// Rows whose keys are a letter and a number. A key that is not is none of ours, and what is missing is noticed.
fn numbered(rows: Vec<(Bytes, Bytes)>) -> Vec<(u64, Bytes)> {
    let number = |key: &Bytes| Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    rows.into_iter().filter_map(|(key, row)| Some((number(&key)?, row))).collect()
}

/// Reads everything of a snapshot that stands in rows of its own, and checks that it stands where its program says it can.
///
/// # Errors
/// [`LoadError`].
pub async fn fill(store: &dyn Store, program: &Program, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    fill_frames(store, program, snapshot).await?;
    fill_values(store, program, snapshot).await
}

/// Reads the payloads of a snapshot that stand in rows of their own.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_values(store: &dyn Store, names: &dyn Names, snapshot: &mut Snapshot) -> Result<(), LoadError> {
    let mut rows = Rows::new(store, names);
    loop {
        let unread = snapshot.unread();
        if unread.is_empty() {
            return Ok(());
        }
        rows.read(snapshot, unread).await?;
        snapshot.fill(&rows.read);
    }
}

/// Reads what is still to be read of the value that an attempt is to run with. Call it when the effect is performed: what it
/// reads is durable by then.
///
/// # Errors
/// [`LoadError`].
pub async fn fill_run(
    store: &dyn Store,
    names: &dyn Names,
    snapshot: &Snapshot,
    run: &mut Run,
) -> Result<(), LoadError> {
    fill_next_run(store, names, snapshot, run, &mut ListRows::new()).await
}

/// The same for one run after the other: items that start in turn mostly stand in the same row of their list.
pub(crate) async fn fill_next_run(
    store: &dyn Store,
    names: &dyn Names,
    snapshot: &Snapshot,
    run: &mut Run,
    lists: &mut ListRows,
) -> Result<(), LoadError> {
    if lists.len() > LIST_ROWS_KEPT {
        lists.clear();
    }
    let mut rows = Rows { lists: std::mem::take(lists), ..Rows::new(store, names) };
    let filled = rows.complete(snapshot, &mut run.value).await;
    *lists = rows.lists;
    filled
}

/// Rows of lists, by their number.
pub(crate) type ListRows = HashMap<(Place, u32), Vec<Token>>;

/// How deep parts of a value may nest: more than any definition makes of it, and so little that it fits a stack.
const PARTS_DEPTH_MAX: usize = 4 * NESTING_MAX;
/// How often a part may be found again, for each part there is: branches may hold what all of them were given.
const FOUND_AGAIN_MAX: usize = 256;

/// Rows of lists that are kept for the next run.
const LIST_ROWS_KEPT: usize = 16;

/// The rows of a run that hold values, as far as they were read.
pub(super) struct Rows<'a> {
    store: &'a dyn Store,
    names: &'a dyn Names,
    read: HashMap<Home, Vec<Token>>,
    lists: ListRows,
}

impl<'a> Rows<'a> {
    pub(super) fn new(store: &'a dyn Store, names: &'a dyn Names) -> Self {
        Self { store, names, read: HashMap::new(), lists: ListRows::new() }
    }

    /// What stands at a home, all of it read.
    pub(super) async fn value(&mut self, snapshot: &Snapshot, home: Home) -> Result<Value, LoadError> {
        let mut value = Value::stored(home);
        self.complete(snapshot, &mut value).await?;
        Ok(value)
    }

    async fn complete(&mut self, snapshot: &Snapshot, value: &mut Value) -> Result<(), LoadError> {
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
        Err(Damaged::new(snapshot.instance(), "run's", "it refers to itself").into())
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
                let key = RowKey::Result(self.path(snapshot, place)?, Arc::clone(&place.indices));
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
                let key = RowKey::Branch(self.path(snapshot, place)?, Arc::clone(&place.indices), *index);
                self.read_row(snapshot, &home, &key).await
            }
            Home::Branches(place, count) => {
                // Before anything is made for as many as it says there are.
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

    /// The items in one row of a list, which is read once for all of them.
    async fn list_row(&mut self, snapshot: &Snapshot, place: &Place, number: u32) -> Result<&[Token], LoadError> {
        let at = (place.clone(), number);
        if !self.lists.contains_key(&at) {
            let key = RowKey::List(self.path(snapshot, place)?, Arc::clone(&place.indices), number);
            let row = self.store.row(snapshot.run(), &key).await?.ok_or_else(|| missing(snapshot, &key))?;
            self.lists.insert(at.clone(), snapshot.open_value(&key, &row)?.into_tokens());
        }
        Ok(self.lists.get(&at).map_or(&[][..], Vec::as_slice))
    }

    /// A whole list in one scan. Behind its rows may be those of a longer one, of an earlier iteration.
    async fn read_list(&mut self, snapshot: &Snapshot, place: &Place, count: u32) -> Result<(), LoadError> {
        let path = self.path(snapshot, place)?;
        let rows = self.store.rows(snapshot.run(), &RowKey::lists(&path, &place.indices), None).await?;
        let mut tokens = vec![Token::List(count)];
        for ((_, row), number) in rows.into_iter().zip(0..) {
            if tokens.len() > count as usize {
                break;
            }
            let key = RowKey::List(path.clone(), Arc::clone(&place.indices), number);
            tokens.extend(snapshot.open_value(&key, &row)?.into_tokens());
        }
        if tokens.len() != count as usize + 1 {
            return Err(Damaged::new(snapshot.instance(), "list", "items are missing").into());
        }
        self.read.insert(Home::List(place.clone(), count), tokens);
        Ok(())
    }

    /// All branches in one scan.
    async fn read_branches(&mut self, snapshot: &Snapshot, place: &Place, count: u32) -> Result<(), LoadError> {
        let path = self.path(snapshot, place)?;
        let rows = self.store.rows(snapshot.run(), &RowKey::branches(&path, &place.indices), None).await?;
        if rows.len() < count as usize {
            return Err(Damaged::new(snapshot.instance(), "branch", "it is missing").into());
        }
        for ((_, row), index) in rows.into_iter().zip(0..count) {
            let key = RowKey::Branch(path.clone(), Arc::clone(&place.indices), index);
            let tokens = snapshot.open_value(&key, &row)?.into_tokens();
            self.read.insert(Home::Branch(place.clone(), index), tokens);
        }
        Ok(())
    }

    fn path(&self, snapshot: &Snapshot, place: &Place) -> Result<NodePath, LoadError> {
        let unknown = || Damaged::new(snapshot.instance(), "head", "it refers to a node its definition does not have");
        Ok(self.names.path(place.node).cloned().ok_or_else(unknown)?)
    }
}

fn missing(snapshot: &Snapshot, key: &RowKey) -> Damaged {
    Damaged::new(snapshot.instance(), key.kind().name(), "it is missing")
}
