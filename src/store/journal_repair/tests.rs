use bytes::Bytes;

use super::*;
use crate::FileStore;
use crate::store::Ops;
use crate::store::kv::Kv as _;

/// Returns a directory where syncs are fast.
fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::TempDir::new_in(memory).unwrap() } else { tempfile::TempDir::new().unwrap() }
}

/// Returns the journal of a store with two batches, the second with this value, and the position
/// where the first ends.
async fn two_batches(value: &[u8]) -> (Vec<u8>, usize) {
    let dir = fast_dir();
    let store = FileStore::open(dir.path()).await.unwrap();
    let write =
        |value: &[u8]| store.kv.write(Ops::from([(b"key".to_vec(), Some(Bytes::copy_from_slice(value)))])).unwrap();
    let written = || {
        let mut journal = std::fs::read(dir.path().join("0.jnl")).unwrap();
        journal.truncate(end(&journal));
        journal
    };
    write(b"one");
    let first = written().len();
    write(value);
    (written(), first)
}

fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Method: cut the last batch, of 20 KB, at every byte; after mending, the database has nothing to
/// repair.
#[tokio::test]
async fn a_batch_cut_at_any_byte_is_cut_away_and_kept() {
    let value: Vec<u8> = (0..20_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let (journal, first) = two_batches(&value).await;
    let dir = fast_dir();
    let file = dir.path().join("0.jnl");
    for cut in first..=journal.len() {
        std::fs::write(&file, &journal[..cut]).unwrap();
        let reached = mend(dir.path(), Torn::Kept).unwrap().position;
        let whole = if cut == journal.len() { cut } else { first };
        assert_eq!(reached, Position { journal: 0, offset: whole as u64 });
        assert!(std::fs::read(&file).unwrap() == journal[..whole], "cut at {cut}");
        let kept = dir.path().join("everstep.torn-1");
        assert_eq!(kept.exists(), whole < cut && end(&journal[whole..cut]) > 0, "cut at {cut}");
        if kept.exists() {
            assert!(std::fs::read(&kept).unwrap() == journal[whole..][..end(&journal[whole..cut])], "cut at {cut}");
            std::fs::remove_file(kept).unwrap();
        }
    }
}

/// Method: tear tails again and again, each with another last byte.
#[tokio::test]
async fn the_newest_torn_tails_are_kept() {
    let (journal, first) = two_batches(b"value").await;
    let dir = fast_dir();
    for number in 1..=20 {
        let torn = [&journal[..first + 10], &[number]].concat();
        std::fs::write(dir.path().join("0.jnl"), torn).unwrap();
        mend(dir.path(), Torn::Kept).unwrap();
        std::fs::write(dir.path().join("0.jnl"), &journal[..first + 10]).unwrap();
        mend(dir.path(), Torn::Dropped).unwrap();
    }
    let kept = |number: u8| std::fs::read(dir.path().join(format!("everstep.torn-{number}"))).ok();
    for number in 1..=20 {
        assert_eq!(kept(number).and_then(|tail| tail.last().copied()), (number > 12).then_some(number));
    }
}

/// Method: cut the note at every byte, and change each of its bytes.
#[test]
fn a_note_that_is_torn_says_nothing() {
    let dir = fast_dir();
    let position = Position { journal: 3, offset: 4_711 };
    note_durable(dir.path(), position).unwrap();
    assert_eq!(read_durable(dir.path()), Some(position));
    let note = std::fs::read(dir.path().join(DURABLE)).unwrap();
    for at in 0..note.len() {
        std::fs::write(dir.path().join(DURABLE), &note[..at]).unwrap();
        assert_eq!(read_durable(dir.path()), None, "cut at {at}");
        let mut changed = note.clone();
        changed[at] ^= 1;
        std::fs::write(dir.path().join(DURABLE), changed).unwrap();
        assert_eq!(read_durable(dir.path()), None, "changed at {at}");
    }
}
