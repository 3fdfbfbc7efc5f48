//! Every store of the crate keeps every promise of the conformance suite. A store on disk promises
//! more: one user at a time, everything there after a reopen, and a typed error for a foreign
//! directory.

#![cfg(feature = "testing")]

use everstep::store::{FaultyStore, MemoryStore, conformance};

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_keeps_every_promise() {
    conformance::run(|| async { MemoryStore::new() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_store_without_faults_keeps_every_promise() {
    conformance::run(|| async { FaultyStore::new(MemoryStore::new()) }).await;
}

#[cfg(feature = "file-store")]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot continue has failed")]
mod file {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use everstep::machine::{self, Context, NewRun, RowChange, RowKey};
    use everstep::store::{Change, Condition, Durability, FileStore, Loaded, Store, StoreError, Write, conformance};
    use everstep::{InstanceId, Limits, RunId, Stamp, StatusCode, Timestamp, Workflow};
    use fjall::{Database, KeyspaceCreateOptions};
    use tempfile::TempDir;

    async fn keeps_every_promise(durability: Durability) {
        let (dir, stores) = (TempDir::new().unwrap(), AtomicU32::new(0));
        let make = || async {
            let path = dir.path().join(stores.fetch_add(1, Ordering::Relaxed).to_string());
            FileStore::open_with(path, durability).await.unwrap()
        };
        conformance::run(make).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn synced_file_store_keeps_every_promise() {
        keeps_every_promise(Durability::Fsync).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn buffered_file_store_keeps_every_promise() {
        keeps_every_promise(Durability::ProcessCrash).await;
    }

    /// Returns the write of an instance that waits for a signal, with a row.
    fn insert(name: &str) -> Write {
        let workflow = Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", "go").build().unwrap();
        let program = workflow.definition().program();
        let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000));
        let (instance, run) = (InstanceId::new(name).unwrap(), RunId::from_bytes([7; 16]));
        let new =
            NewRun { instance: instance.clone(), run, codec: 1, input: Bytes::from_static(&[1]), traceparent: None };
        let (snapshot, _) = machine::start(&Context { program, limits: &limits, now }, new);
        let change = Change::Head(machine::encode_head(program, &snapshot));
        let rows = vec![RowChange { key: RowKey::Signal(3), value: Some(Bytes::from_static(b"signal")) }];
        let stamp = Stamp::generate();
        Write { instance, stamp, condition: Condition::Absent, change, rows, run, superseded: None }
    }

    /// Creates a directory with a store that holds one instance.
    async fn kept(parent: &Path, durability: Durability) -> PathBuf {
        let path = parent.join("store");
        let store = FileStore::open_with(&path, durability).await.unwrap();
        assert_eq!(store.commit(&[insert("kept")]).await.unwrap(), [Ok(())]);
        path
    }

    async fn has_everything(store: &FileStore) {
        let Write { change: Change::Head(head), run, instance, .. } = insert("kept") else { unreachable!() };
        assert_eq!(store.load(&instance).await.unwrap(), Some(Loaded { head, quarantine: None }));
        let signals = store.rows(run, RowKey::SIGNALS, None).await.unwrap();
        assert_eq!(signals, [(RowKey::Signal(3).to_bytes().into(), Bytes::from_static(b"signal"))]);
        let definition = store.definitions().await.unwrap().pop().unwrap();
        let listed = store.instances(&definition, StatusCode::AwaitingSignal, None, 1).await.unwrap();
        assert_eq!(listed, [instance], "the first by id, before those a test added");
        assert_eq!(store.quarantined(None, 10).await.unwrap(), []);
    }

    /// Method: drop or close the store, and open it again at once: the lock is free by then.
    #[tokio::test]
    async fn reopened_store_has_everything() {
        for durability in [Durability::Fsync, Durability::ProcessCrash] {
            let dir = TempDir::new().unwrap();
            let path = kept(dir.path(), durability).await;
            for _ in 0..3 {
                let dropped = FileStore::open_with(&path, durability).await.unwrap();
                has_everything(&dropped).await;
                drop(dropped);
                let closed = FileStore::open(&path).await.unwrap();
                assert_eq!(closed.durability(), Durability::Fsync);
                has_everything(&closed).await;
                closed.close().await;
                let beside = FileStore::open(&path).await.unwrap();
                has_everything(&beside).await;
            }
        }
    }

    /// Method: open a second store on the same directory, in each way. The open is refused, and the
    /// first store is unharmed.
    #[tokio::test]
    async fn directory_has_one_user_at_a_time() {
        let dir = TempDir::new().unwrap();
        let path = kept(dir.path(), Durability::Fsync).await;
        let locked = StoreError::Locked(path.display().to_string());
        let first = FileStore::open(&path).await.unwrap();
        assert_eq!(FileStore::open(&path).await.unwrap_err(), locked);
        has_everything(&first).await;
        assert_eq!(first.commit(&[insert("new")]).await.unwrap(), [Ok(())]);
        first.close().await;
        let second = FileStore::open(&path).await.unwrap();
        assert_eq!(first.reopen().await, Err(locked));
        drop(second);
        first.reopen().await.unwrap();
        has_everything(&first).await;
        assert_eq!(FileStore::open(&path).await.unwrap_err(), StoreError::Locked(path.display().to_string()));
    }

    #[tokio::test]
    async fn closed_store_answers_nothing_until_reopened() {
        let dir = TempDir::new().unwrap();
        let store = FileStore::open(kept(dir.path(), Durability::Fsync).await).await.unwrap();
        store.close().await;
        store.close().await;
        let kept = InstanceId::new("kept").unwrap();
        assert!(matches!(store.load(&kept).await, Err(StoreError::Fatal(_))));
        assert!(matches!(store.commit(&[insert("new")]).await, Err(StoreError::Fatal(_))));
        assert!(matches!(store.due(None, 1).await, Err(StoreError::Fatal(_))));
        assert!(matches!(store.sweep(1).await, Err(StoreError::Fatal(_))));
        store.reopen().await.unwrap();
        has_everything(&store).await;
        assert_eq!(store.load(&InstanceId::new("new").unwrap()).await.unwrap(), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn new_directory_is_private_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a/b/store");
        FileStore::open(&path).await.unwrap();
        for made in ["a", "a/b", "a/b/store"] {
            let mode = dir.path().join(made).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
    }

    async fn refusal(path: &Path) -> String {
        match FileStore::open(path).await {
            Err(StoreError::Unreadable { at, why }) => {
                assert!(at.starts_with(&path.display().to_string()), "{at}");
                why
            }
            other => panic!("{}: opening returned {other:?}", path.display()),
        }
    }

    fn foreign(path: &Path, keyspace: &str, key: &str, value: &str) {
        let database = Database::builder(path).open().unwrap();
        let map = database.keyspace(keyspace, KeyspaceCreateOptions::default).unwrap();
        map.insert(key, value).unwrap();
    }

    /// Method: open a database of the same kind that belongs to another program or to another
    /// version of the store. The directory is refused and not written.
    #[tokio::test]
    async fn store_of_another_program_or_version_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        foreign(&path("other layout"), "everstep", "v", "everstep 2");
        assert!(refusal(&path("other layout")).await.contains("another version"));
        foreign(&path("no layout"), "everstep", "h", "x");
        assert!(refusal(&path("no layout")).await.contains("did not write"));
        foreign(&path("other keyspace"), "blog", "post", "x");
        refusal(&path("other keyspace")).await;
    }

    #[tokio::test]
    async fn opening_a_foreign_directory_fails() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        refusal(&file).await;
        refusal(&file.join("below")).await;
        for garbage in ["FJL\u{2}", "FJL\u{7f}", "garbage and more of it"] {
            let path = dir.path().join("garbage");
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("version"), garbage).unwrap();
            refusal(&path).await;
        }
    }

    /// Method: empty, cut, overwrite or remove every file of a store in turn. Opening it is refused
    /// with a typed error, or returns a store that answers; nothing panics. Not every loss can be
    /// noticed: an emptied journal is a new one.
    #[tokio::test]
    async fn damaged_store_is_an_error_and_not_a_panic() {
        let dir = TempDir::new().unwrap();
        let path = kept(dir.path(), Durability::Fsync).await;
        let mut failed = Vec::new();
        for file in files(&path) {
            for (damage, harm) in DAMAGES {
                let copy = dir.path().join("copy");
                copy_tree(&path, &copy);
                harm(&copy.join(&file));
                let tried = tokio::spawn(async move { try_everything(&copy).await }).await;
                std::fs::remove_dir_all(dir.path().join("copy")).unwrap();
                if !matches!(tried, Ok(Ok(()) | Err(StoreError::Fatal(_)))) {
                    failed.push(format!("{} {damage}: {tried:?}", file.display()));
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    async fn try_everything(path: &Path) -> Result<(), StoreError> {
        let store = match FileStore::open(path).await {
            Err(StoreError::Unreadable { .. }) => return Ok(()),
            // A panic on the way is Fatal.
            opened => opened.unwrap(),
        };
        store.load(&InstanceId::new("kept").unwrap()).await?;
        store.due(None, 10).await?;
        store.definitions().await?;
        store.commit(&[insert("new")]).await?;
        Ok(())
    }

    type Damage = (&'static str, fn(&Path));
    const DAMAGES: [Damage; 4] = [
        ("emptied", |file| std::fs::write(file, b"").unwrap()),
        ("cut in half", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("overwritten", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, vec![0xa5; bytes.len()]).unwrap();
        }),
        ("missing", |file| std::fs::remove_file(file).unwrap()),
    ];

    fn files(root: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
        found.sort();
        found
    }

    fn copy_tree(from: &Path, to: &Path) {
        for file in files(from) {
            let target = to.join(&file);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(from.join(&file), target).unwrap();
        }
    }
}
