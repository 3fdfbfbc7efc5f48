//! Journals as a crash of the machine may leave them: a torn end costs no acknowledged batch, and
//! damage is never taken for a torn end.
#![cfg(feature = "file-store")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot continue has failed")]

#[path = "journal_images/image.rs"]
mod image;

use std::fs::OpenOptions;

use everstep::store::{FileStore, Store};
use image::{Written, fast_dir, has, insert, insert_row, written, written_batches};

const PAGE: usize = 4_096;
const SMALL: usize = 100;
const LARGE: usize = 20_000;

/// Method: cut the journal at every byte of its last three batches, small ones.
#[tokio::test]
async fn journal_cut_at_any_byte_keeps_batches_before_the_cut() {
    let written = written(&[SMALL; 5], 1).await;
    for cut in written.start_of(2)..=written.journal.len() {
        let torn = written.ends.iter().filter(|end| **end <= cut).count();
        let image = written.image(&written.journal[..cut]);
        assert!(!written.survives(&image, torn, &format!("cut at {cut}")).await);
        // A journal is zeros where no batch was written.
        let mut tail = written.journal[written.start_of(torn)..cut].to_vec();
        tail.truncate(tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        assert_eq!(image.kept().concat(), tail, "cut at {cut}");
    }
}

/// Method: cut the journal within its last batch, of several pages, at every byte with
/// `EVERSTEP_DISK_IMAGES=all`, else at every 97th and around every page. (The bytes left of each
/// are compared beside the code.)
#[tokio::test]
async fn large_batch_cut_anywhere_costs_no_other_batch() {
    let written = written(&[SMALL, LARGE, LARGE], 1).await;
    let all = std::env::var("EVERSTEP_DISK_IMAGES").is_ok_and(|all| all == "all");
    let (start, end) = (written.start_of(2), written.journal.len());
    for cut in (start..end).filter(|cut| all || cut % 97 == 0 || (cut + 2) % PAGE < 4 || cut + 30 > end) {
        let image = written.image(&written.journal[..cut]);
        assert!(!written.survives(&image, 2, &format!("cut at {cut}")).await);
    }
}

/// Returns the journal with some pages from `start` on as they were before: zeros, or another
/// file's bytes.
fn with_stale_pages(written: &Written, start: usize, stale: impl Fn(usize) -> bool, left: &[u8]) -> Vec<u8> {
    let mut journal = written.journal.clone();
    for (at, byte) in journal.iter_mut().enumerate().skip(start).filter(|(at, _)| stale(at / PAGE)) {
        *byte = left.get(at).copied().unwrap_or(0);
    }
    journal
}

/// Method: of the last batch, of seven pages, every choice of pages reached the disk. The others
/// are zeros, or pages of an older file of the same store, with whole batches in them. The file is
/// as long as the batch, or longer.
#[tokio::test]
async fn batch_with_any_pages_missing_is_torn() {
    let written = written(&[SMALL, SMALL, LARGE, 6 * PAGE], 1).await;
    let (start, first_page) = (written.start_of(3), written.start_of(3) / PAGE);
    let pages = (written.journal.len() - 1) / PAGE - first_page + 1;
    assert_eq!(pages, 7);
    // Small batches over and over, out of step with the pages.
    let old = &written.journal[..written.start_of(2)];
    let older: Vec<u8> = old.iter().copied().cycle().take(written.journal.len()).collect();
    for missing in 1..1_usize << pages {
        let stale = |page: usize| missing >> (page - first_page) & 1 == 1;
        for (left, what) in [(&[][..], "zeros"), (&older, "older bytes")] {
            let mut journal = with_stale_pages(&written, start, stale, left);
            if missing % 2 == 0 {
                journal.resize(journal.len() + 3 * PAGE, 0);
            }
            let image = written.image(&journal);
            let what = format!("pages {missing:b} hold {what}");
            let is_there = written.survives(&image, 3, &what).await;
            assert_eq!(is_there, journal.starts_with(&written.journal), "{what}");
        }
    }
}

/// Method: put zeros, random bytes, or older batches after any of the batches.
#[tokio::test]
async fn bytes_after_the_last_batch_are_no_batch() {
    let written = written(&[SMALL; 4], 1).await;
    let noise: Vec<u8> =
        (0..50_000_u32).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    for torn in 1..=written.batches.len() {
        let before = &written.journal[..written.start_of(torn)];
        let (older, zeros) = (&written.journal[..written.start_of(torn - 1)], vec![0; 200_000]);
        for (left, what) in [
            (&zeros[..], "zeros"),
            (&noise, "noise"),
            (older, "older ones"),
            (older.get(10..).unwrap_or_default(), "some older ones"),
        ] {
            for gap in [0, 1, 5_000] {
                let image = written.image(&[before, &zeros[..gap], left].concat());
                written.survives(&image, torn, &format!("{torn} batches, {gap} zeros and {what}")).await;
            }
        }
    }
}

/// Method: open a journal as it is when just made, 64 MiB long, with a torn batch at its end.
#[tokio::test]
async fn preallocated_journal_with_torn_end_opens() {
    let written = written(&[SMALL, SMALL, LARGE], 1).await;
    let torn = with_stale_pages(&written, written.start_of(2), |page| page == 1, &[]);
    for (journal, batches) in [(&written.journal, 3), (&torn, 2)] {
        let image = written.image(journal);
        let file = OpenOptions::new().write(true).open(image.journal(0)).unwrap();
        file.set_len(64 << 20).unwrap();
        assert!(!written.survives(&image, batches, &format!("{batches} whole batches")).await);
    }
}

/// Method: the batches lie in two or three journals; the newest of them may be empty, or hold only
/// zeros.
#[tokio::test]
async fn torn_end_is_found_across_several_journals() {
    let written = written(&[SMALL; 4], 0).await;
    let part = |from: usize, to: usize| &written.journal[written.start_of(from)..written.start_of(to)];
    let torn = |from: usize, to: usize| part(from, to + 1).split_last_chunk::<20>().unwrap().0;
    let zeros = vec![0; 100_000];
    let zeros_after = [part(0, 2), &zeros].concat();
    for (journals, batches, what) in [
        (vec![part(0, 2), part(2, 4)], 4, "two"),
        (vec![&zeros_after, part(2, 4)], 4, "zeros after the first"),
        (vec![part(0, 2), torn(2, 3)], 3, "the second is torn"),
        (vec![part(0, 2), torn(2, 2)], 2, "the second holds a torn batch alone"),
        (vec![part(0, 1), part(1, 2), torn(2, 3)], 3, "the third is torn"),
        (vec![torn(0, 2), &[]], 2, "the first is torn, the second empty"),
        (vec![torn(0, 2), &zeros], 2, "the first is torn, the second zeros"),
    ] {
        let image = written.image_of(&journals);
        written.survives(&image, batches, what).await;
    }
    for (journals, what) in [
        (vec![torn(0, 1), part(2, 4)], "the first is torn, the second has batches"),
        (vec![part(0, 1), torn(1, 1), part(2, 3)], "the second is torn, the third has a batch"),
        (vec![torn(0, 1), torn(2, 3)], "both are torn"),
        (vec![&zeros, part(0, 1), torn(1, 1), &[0; 500], part(2, 3)], "the third is torn, the last has a batch"),
    ] {
        let said = written.image_of(&journals).is_refused(what).await;
        assert!(said.contains("damaged at byte"), "{what}: {said}");
    }
}

/// Method: change each byte of a batch in the middle; then fill each page of large batches with
/// zeros.
#[tokio::test]
async fn damage_before_a_whole_batch_is_refused_untouched() {
    let small = written(&[SMALL; 3], 0).await;
    for at in small.start_of(1)..small.ends[1] {
        let mut journal = small.journal.clone();
        journal[at] ^= 0x41;
        let said = small.image(&journal).is_refused(&format!("byte {at}")).await;
        assert!(said.contains("and whole batches follow the damage"), "byte {at}: {said}");
    }
    let large = written(&[SMALL, LARGE, LARGE, LARGE], 0).await;
    // The next page holds the begin of the last batch.
    for page in 0..large.start_of(3) / PAGE {
        let journal = with_stale_pages(&large, 0, |stale| stale == page, &[]);
        large.image(&journal).is_refused(&format!("page {page}")).await;
    }
}

/// Method: change or remove the last batch of a store that was closed. The batch was acknowledged,
/// and the store knows.
#[tokio::test]
async fn batch_durable_at_a_close_is_never_taken_for_torn() {
    let dir = fast_dir();
    let path = dir.path().join("store");
    let store = FileStore::open(&path).await.unwrap();
    let batches = [insert(1, SMALL), insert(2, SMALL)];
    for batch in &batches {
        store.commit(std::slice::from_ref(batch)).await.unwrap();
    }
    store.close().await;
    let whole = std::fs::read(path.join("0.jnl")).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut changed = whole.clone();
    changed[end - 40] ^= 1;
    for journal in [&changed[..], &whole[..end - 1], &whole[..300], &[]] {
        std::fs::write(path.join("0.jnl"), journal).unwrap();
        let why = FileStore::open(&path).await.unwrap_err().to_string();
        assert!(why.contains(&format!("it was durable up to byte {end}")), "{why}");
        assert!(std::fs::read(path.join("0.jnl")).unwrap() == journal, "the journal was touched");
    }
    // The error names this way out.
    std::fs::write(path.join("0.jnl"), &changed).unwrap();
    std::fs::remove_file(path.join("everstep.durable")).unwrap();
    let store = FileStore::open(&path).await.unwrap();
    assert!(has(&store, &batches[0]).await);
    assert!(!has(&store, &batches[1]).await);
    assert!(path.join("everstep.torn-1").exists());
}

/// Method: a caller's value is the image of a journal with batches newer than all others; the batch
/// that holds it is torn.
#[tokio::test]
async fn value_that_looks_like_a_batch_is_no_batch() {
    let newer = written(&[SMALL; 20], 0).await;
    let value = newer.journal[newer.start_of(19)..].repeat(100);
    let written = written_batches(vec![insert(1, SMALL), insert_row(2, value.into())], 1).await;
    let mut journal = written.journal.clone();
    let at = journal.len() - 300;
    journal[at] ^= 1;
    let image = written.image(&journal);
    assert!(!written.survives(&image, 1, "a changed byte").await);
}
