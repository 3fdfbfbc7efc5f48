//! Records that are damaged, or made to do harm with a correct checksum.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fixtures::{Fixture, definition, fixtures, instance, snapshot};
use super::{Record, WRITTEN, records, resealed, stored};
use crate::machine::{
    Envelope, HEAD_INDEX_BYTES, HeadIndex, Kind, RowKey, decode_head, decode_quarantine, encode_head,
};

/// Method: flip every single bit of each stored record, and cut it at every length: a typed error,
/// never a panic.
#[test]
fn every_bit_flip_and_every_truncation_is_refused() {
    for Record { name, kind, row, .. } in records(WRITTEN) {
        let whole = stored(&name);
        let assert_refused = |bytes: &Bytes, how: String| {
            assert!(Envelope::open(&instance(), kind, &row, bytes).is_err(), "{name}: {how}");
            assert!(decode_head(&instance(), bytes).is_err(), "{name}: {how}");
            assert!(HeadIndex::of_head(&instance(), bytes).is_err(), "{name}: {how}");
        };
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_refused(&flipped.into(), format!("bit {bit} flipped"));
        }
        for length in 0..whole.len() {
            assert_refused(&whole.slice(..length), format!("cut to {length} bytes"));
        }
    }
}

/// Returns a MessagePack field name.
fn named(name: &str) -> Vec<u8> {
    [&[0xa0 | u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

/// Returns pieces of MessagePack that claim far more than is there, or nest deeper than any stack.
fn hostile_values() -> Vec<Vec<u8>> {
    let lengths = [u32::MAX, i32::MAX as u32, 1 << 24].map(u32::to_be_bytes);
    // str32, bin32, array32, map32, ext32.
    let markers = [0xdb, 0xc6, 0xdd, 0xdf, 0xc9];
    let bombs = lengths.iter().flat_map(|length| markers.map(|marker| [&[marker], &length[..], b"\x01\x02"].concat()));
    // Arrays in arrays, maps as keys of maps, maps as values of maps.
    let levels: [&[u8]; 6] = [b"\x91", b"\x81", b"\xdd\0\0\0\x01", b"\xdf\0\0\0\x01", b"\x81\xa1x", b"\x81\xa5ready"];
    let nested = levels.map(|level| level.repeat(100_000));
    bombs.chain(nested).chain([Vec::new(), vec![0xc1]]).collect()
}

/// Returns a head's record up to each place of a hostile value: the record itself, a field of each
/// shape and an unknown one, and within the frame and the end.
fn hostile_places() -> Vec<Vec<u8>> {
    let head = [b"\x82", &named("start")[..], b"\0"].concat();
    let field = |name: &str| [&head[..], &named(name)].concat();
    let frame = [&field("root")[..], b"\x84", &named("pos"), b"\0", &named("node"), b"\0", &named("val")].concat();
    let in_frame = |name: &str| [&frame[..], b"\x90", &named(name)].concat();
    let end = |rest: &[u8]| [&field("end")[..], rest].concat();
    let mut places: Vec<_> = ["root", "end", "pause", "trace", "signals", "later"].map(field).to_vec();
    places.extend(["do", "tags", "prio", "later"].map(in_frame));
    places.extend([Vec::new(), b"\x81".to_vec(), frame.clone(), [&frame[..], b"\xdc\xff\xff\x81\xa1b"].concat()]);
    places.extend([end(b"\x81\xa9completed\x81\xa6output"), end(b"\x81\xabtask_failed\x81\xa7message")]);
    places
}

/// Method: records with a correct checksum and wrong lengths or nesting. They are refused at once,
/// without an allocation for missing bytes, and within a thread's stack.
#[test]
fn hostile_records_are_refused_quickly() {
    let began = Instant::now();
    let seal = |kind, body: &[u8], row: &[u8]| snapshot(1).envelope(kind, 1).seal(body, row);
    let signal_key = RowKey::Signal(0).to_bytes();
    for value in hostile_values() {
        let shown = &value[..value.len().min(8)];
        for place in hostile_places() {
            let head = resealed("start", |record| *record = [&place[..], &value].concat());
            assert!(decode_head(&instance(), &head).is_err(), "{shown:x?} behind {place:x?} in a head");
        }
        for place in [&b""[..], b"\x82\xa2id\xa1x\xa4name", b"\x82\xa2id\xa1x\xa7payload", b"\x82\xa2id\xa1x\xa5later"]
        {
            let signal = seal(Kind::Signal, &[place, &value].concat(), &signal_key);
            assert!(snapshot(1).take_signal_row(0, &signal).is_err(), "{shown:x?} behind {place:x?} in a signal");
        }
        for place in [&b""[..], b"\x81\xa6reason", b"\x82\xa6reason\xa1x\xa5later"] {
            let reason = decode_quarantine(&instance(), &seal(Kind::Quarantine, &[place, &value].concat(), &[]));
            assert_eq!(&*reason, "the quarantine record is damaged", "{shown:x?} behind {place:x?}");
        }
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

/// Method: replace every byte of every head's record in turn, with a correct checksum: an error, or
/// a snapshot that can be inspected. Never a panic.
#[test]
fn record_with_any_byte_changed_does_no_harm() {
    let markers = [
        0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1, 0xc3, 0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xcb,
        0xcc, 0xcf, 0xd0, 0xd3, 0xd4, 0xd8, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff,
    ];
    let definition = definition();
    let mut read = 0;
    for Fixture { name, .. } in fixtures() {
        let length = Envelope::open(&instance(), Kind::Head, &[], &stored(name)).unwrap().1.len() - HEAD_INDEX_BYTES;
        for (at, marker) in (0..length).flat_map(|at| markers.map(|marker| (at, marker))) {
            let Ok(snapshot) = decode_head(&instance(), &resealed(name, |record| record[at] = marker)) else {
                continue;
            };
            read += 1;
            let looks = (snapshot.status(definition.program()), snapshot.next_wake(), snapshot.unread());
            assert!(!encode_head(definition.program(), &snapshot).is_empty(), "{looks:?}");
        }
    }
    assert!(read > 1_000, "most changes of texts and numbers are read: {read}");
}
