//! Records as bytes, kept for ever in `tests/golden`: every later version reads and writes them as
//! the version that wrote them did.
//!
//! * [`fixtures`]: fixed snapshots of every shape, and the rows beside them.
//! * [`branches`]: an instance with branches and lists, event by event.
//! * [`eras`]: an instance that is upgraded twice, event by event.
//! * [`hostile`]: records that are damaged, or made to do harm.
//!
//! An existing file is never written again. For a new fixture, or a new format in a directory of
//! its own, `EVERSTEP_WRITE_GOLDEN=1 cargo test golden` writes the missing files; the tests that
//! read them pass from the next run on.

mod branches;
mod eras;
mod fixtures;
mod hostile;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bytes::Bytes;

use self::fixtures::{Fixture, STAMP, definition, fixtures, fixtures_of_format_1, instance, row_of};
use super::snapshot::Signals;
use super::{
    Damaged, Envelope, HEAD_INDEX_BYTES, HeadIndex, Kind, RowKey, Snapshot, decode_head, decode_quarantine,
    encode_head, encode_quarantine, quarantine_stamp,
};
use crate::codec::Token;
use crate::id::Stamp;
use crate::time::Timestamp;

/// Reason in the golden files, in the words of the version that wrote them.
const QUARANTINED: &str = "the process died 5 times in a row while task `charge` was running";

/// One file: its name, and its content as written today.
struct Record {
    name: String,
    kind: Kind,
    /// The row's key; a head and a quarantine record have none.
    row: Vec<u8>,
    bytes: Bytes,
}

fn fixtures_of(format: u8) -> Vec<Fixture> {
    if format == 1 { fixtures_of_format_1() } else { fixtures() }
}

fn records(format: u8) -> Vec<Record> {
    let alone = |name: &str, kind, bytes| Record { name: name.into(), kind, row: Vec::new(), bytes };
    let mut records = vec![alone("quarantine", Kind::Quarantine, encode_quarantine(&instance(), QUARANTINED, STAMP))];
    for Fixture { name, snapshot, rows } in fixtures_of(format) {
        records.push(alone(name, Kind::Head, encode_head(definition().program(), &snapshot)));
        for row in rows {
            let (kind, key) = (row.key.kind(), row.key.to_bytes());
            let bytes = snapshot.envelope(kind, snapshot.seq).seal(&row.body, &key);
            records.push(Record { name: row.file(name), kind, row: key, bytes });
        }
    }
    records
}

/// The formats of the envelope: the written one, and those that are only read.
const FORMATS: [u8; 2] = [1, 2];
const WRITTEN: u8 = 2;

/// Returns the directory of a format; format 1 keeps its old one.
fn directory(format: u8) -> PathBuf {
    let name = if format == 1 { "v1".into() } else { format!("format-{format}/v1") };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn file(format: u8, name: &str) -> PathBuf {
    directory(format).join(format!("{name}.bin"))
}

fn stored_in(format: u8, name: &str) -> Bytes {
    let path = file(format, name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; see the module's head", path.display())).into()
}

fn stored(name: &str) -> Bytes {
    stored_in(WRITTEN, name)
}

/// Returns a snapshot in a form that can be compared: maps in order, and without its stamp, which
/// format 1 lacks.
fn plain(snapshot: &Snapshot) -> String {
    // By field and without `..`, so that a new field is not forgotten here.
    let Snapshot {
        instance,
        run,
        seq,
        stamp: _,
        definition,
        era,
        codec,
        started_at,
        deadline,
        traceparent,
        frames,
        next_frame,
        unread_frames,
        unread_from,
        shown,
        results,
        signals,
        pause,
        end,
        ended_at,
    } = snapshot;
    let Signals { accepted, from, rows, buffered, buffered_count, buffered_bytes, remembered, numbers, bare, absent } =
        signals;
    let (buffered, numbers) = (BTreeMap::from_iter(buffered), BTreeMap::from_iter(numbers));
    let payloads = payloads(snapshot);
    format!(
        "{:#?}\n{:#?}\n{:#?}\n{payloads:x?}",
        (instance, run, seq, definition, era, codec, started_at, deadline, traceparent),
        (frames, next_frame, unread_frames, unread_from, shown, results, pause, end, ended_at),
        (accepted, from, rows, buffered, buffered_count, buffered_bytes, remembered, numbers, bare, absent),
    )
}

/// Returns every payload in a snapshot, which `Debug` does not show.
fn payloads(snapshot: &Snapshot) -> Vec<Bytes> {
    let values = snapshot.frames.iter().map(|(_, frame)| &frame.value).chain(snapshot.output());
    let mut found = Vec::new();
    for value in values {
        let mut tokens: Vec<_> = value.tokens().iter().collect();
        while let Some(token) = tokens.pop() {
            match token {
                Token::Leaf(leaf) => found.push(leaf.bytes.clone()),
                Token::Failed(failure) => found.push(failure.clone()),
                Token::Block(block) => tokens.extend(block.tokens.iter()),
                _ => {}
            }
        }
    }
    let buffered: BTreeMap<_, _> = snapshot.signals.buffered.iter().collect();
    found.extend(snapshot.inline_results().filter_map(|(_, result)| result.payload().cloned()));
    found.extend(buffered.values().flat_map(|signals| signals.iter().map(|signal| signal.payload.clone())));
    found
}

/// Loads a fixture from its files as the runtime does: the head, the payloads in rows of their own,
/// the signals.
fn load(format: u8, fixture: &Fixture) -> Result<Snapshot, Damaged> {
    let stored = |name: &str| stored_in(format, name);
    let mut snapshot = decode_head(&instance(), &stored(fixture.name))?;
    let mut read = HashMap::new();
    for home in snapshot.unread() {
        let row = fixture.rows.iter().find(|row| row.key == row_of(&home)).unwrap();
        let value = snapshot.open_value(&row.key, &stored(&row.file(fixture.name)))?;
        read.insert(home, value.into_tokens());
    }
    snapshot.fill(&read);
    for row in &fixture.rows {
        match row.key {
            RowKey::Signal(number) => snapshot.take_signal_row(number, &stored(&row.file(fixture.name)))?,
            RowKey::SignalId(_) | RowKey::SignalNumber(_) => {
                snapshot.take_remembered(&row.key, Some(&stored(&row.file(fixture.name))))?;
            }
            _ => {}
        }
    }
    Ok(snapshot)
}

#[test]
fn todays_records_equal_the_golden_files() {
    for Record { name, bytes, .. } in records(WRITTEN) {
        let file = file(WRITTEN, &name);
        if !file.exists() && std::env::var_os("EVERSTEP_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(bytes, stored(&name), "{name}: instances stored by an earlier version look otherwise");
    }
}

/// Method: find a fixture for every file. Renaming or dropping a fixture would otherwise leave its
/// file untested.
#[test]
fn no_golden_file_is_forgotten() {
    for format in FORMATS {
        let mut known: Vec<_> = records(format).iter().map(|record| file(format, &record.name)).collect();
        known.sort();
        let files = std::fs::read_dir(directory(format)).unwrap();
        let mut found: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        assert_eq!(found, known);
    }
}

#[test]
fn golden_snapshots_read_and_write_unchanged() {
    for (format, fixture) in
        FORMATS.into_iter().flat_map(|format| fixtures_of(format).into_iter().map(move |one| (format, one)))
    {
        let mut read = load(format, &fixture).unwrap();
        assert_eq!(plain(&read), plain(&fixture.snapshot), "{} in format {format}", fixture.name);
        assert_eq!(read.stamp, if format == 1 { Stamp::NONE } else { STAMP });
        read.stamp = STAMP;
        assert_eq!(encode_head(definition().program(), &read), stored(fixture.name), "{}", fixture.name);
        assert_eq!(&*decode_quarantine(&instance(), &stored_in(format, "quarantine")), QUARANTINED);
    }
    assert_eq!(quarantine_stamp(&instance(), &stored("quarantine")), STAMP);
}

/// Method: read the bytes at the offsets of the drawings in `envelope`, as a reader without this
/// crate does.
#[test]
fn every_head_has_the_drawn_layout() {
    for Fixture { name, snapshot, .. } in fixtures() {
        let bytes = stored(name);
        let id = instance();
        assert_eq!(bytes[..6], [b'E', b'V', 2, 1, snapshot.codec, 0], "{name}: magic, format, kind, codec, shape");
        assert_eq!(bytes[6..22], snapshot.run.to_bytes(), "{name}: run");
        let seq_bytes = (64 - snapshot.seq.leading_zeros()).div_ceil(7).max(1) as usize;
        let groups = bytes[22..22 + seq_bytes].iter().rev();
        let seq = groups.fold(0, |seq, group| seq << 7 | u64::from(group & 0x7f));
        assert_eq!(seq, snapshot.seq, "{name}: seq");
        let is_last = bytes[22..22 + seq_bytes].iter().position(|group| *group < 0x80);
        assert_eq!(is_last, Some(seq_bytes - 1), "{name}: the end of seq");
        assert_eq!(bytes[22 + seq_bytes..30 + seq_bytes], STAMP.to_bytes(), "{name}: stamp");
        let seed = xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes());
        let (content, checksum) = bytes.split_at(bytes.len() - 8);
        assert_eq!(checksum, xxhash_rust::xxh3::xxh3_64_with_seed(content, seed).to_be_bytes(), "{name}: checksum");
        let body = &bytes[30 + seq_bytes..];
        assert_eq!(body[0], snapshot.status_code() as u8, "{name}: status");
        assert_eq!(&body[1..33], snapshot.definition.as_bytes(), "{name}: definition");
        let time = snapshot.due().or(snapshot.ended_at).map_or(u64::MAX, Timestamp::as_micros);
        assert_eq!(body[33..41], time.to_be_bytes(), "{name}: due, or when it ended");
        let index = HeadIndex::of_head(&id, &bytes).unwrap();
        assert_eq!(index, snapshot.head_index(), "{name}: as stores read it");
    }
    for Fixture { name, .. } in fixtures_of(1) {
        let (index, before) =
            [stored(name), stored_in(1, name)].map(|head| HeadIndex::of_head(&instance(), &head)).into();
        assert_eq!(HeadIndex { stamp: STAMP, ..before.unwrap() }, index.unwrap(), "{name}: the same in format 1");
        assert!(stored(name).len() < stored_in(1, name).len(), "{name}: no larger than in format 1");
    }
}

/// Returns a head with a changed body, and a correct checksum.
fn resealed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let (envelope, body) = Envelope::open(&instance(), Kind::Head, &[], &stored(name)).unwrap();
    let (index, record) = body.split_at(HEAD_INDEX_BYTES);
    let mut record = record.to_vec();
    change(&mut record);
    envelope.seal(&[index, &record].concat(), &[])
}

/// Method: add a field to a head, as a later version may. A reader must not skip it: the next write
/// would lose it. The error differs from that of a damaged record.
#[test]
fn head_with_unknown_field_is_of_a_newer_version() {
    for fixture in fixtures() {
        let newer = resealed(fixture.name, |record| {
            assert_eq!(record[0] & 0xf0, 0x80, "a map of at most 15 fields");
            record[0] += 1;
            record.extend_from_slice(b"\xa5later\x92\x81\xa1x\xc4\x02\xff\xff\xc3");
        });
        assert!(decode_head(&instance(), &newer).unwrap_err().is_readable_elsewhere(), "{}", fixture.name);
        assert!(HeadIndex::of_head(&instance(), &newer).is_ok(), "{}: its index part is as it was", fixture.name);
    }
}
