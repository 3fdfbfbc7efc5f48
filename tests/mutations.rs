//! Bytes changed at random, a great many times: a typed error or a value, never a panic, a hang, an
//! abort or a large allocation. `EVERSTEP_SPLICES` sets their number, `EVERSTEP_SEED` their choice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic anywhere")]

#[path = "mutations/entry.rs"]
mod entry;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everstep::{MemoryStore, Runtime, Store as _, Workflow};

use crate::entry::{Golden, Record, payload, unsealed};

/// Bytes allocated at once while a record is read. The largest record here has some hundred bytes;
/// serde trusts a list's length up to a mebibyte, and a record has few lists.
const ALLOCATED_MAX: u64 = 8 << 20;
/// The longest that one read may take: some thousand times its usual time.
const HANGS: Duration = Duration::from_secs(20);
/// Defaults of the number of changes and of the seed.
const SPLICES: u64 = 400_000;
const SEED: u64 = 0x5eed_e7e2_57e9;

fn golden() -> Golden {
    let manifest: PathBuf = env!("CARGO_MANIFEST_DIR").into();
    Golden::read(&manifest.join("tests/golden"))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs a closure within the bounds on memory and time, and without a panic.
#[track_caller]
fn bounded<T>(what: impl Fn() -> String, run: impl FnOnce() -> T) -> T {
    let (mut given, began) = (None, Instant::now());
    let used = allocation_counter::measure(|| given = Some(catch_unwind(AssertUnwindSafe(run))));
    let took = began.elapsed();
    let given = given.unwrap().unwrap_or_else(|_| panic!("a panic: {}", what()));
    assert!(used.bytes_max <= ALLOCATED_MAX, "{} bytes were allocated: {}", used.bytes_max, what());
    assert!(took < HANGS, "it took {took:?}: {}", what());
    given
}

/// Reads every golden file with every single bit flipped and at every shorter length, as its own
/// kind and as a head, an index entry's source and a quarantine record.
#[test]
fn golden_file_with_flipped_bit_or_cut_end_is_refused() {
    let golden = golden();
    assert!(golden.records.len() > 80, "{} records", golden.records.len());
    let mut tried = 0;
    for record in &golden.records {
        let whole = &record.bytes;
        assert!(golden.stored(record, whole), "{}: whole, it is not read", record.name);
        let mut refused = |bytes: Bytes, how: &str, at: usize| {
            let what = || format!("{} {how} {at}", record.name);
            assert!(!bounded(what, || golden.stored(record, &bytes)), "{} was read", what());
            tried += 1;
        };
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(flipped.into(), "with bit flipped", bit);
        }
        for length in 0..whole.len() {
            refused(whole.slice(..length), "cut to", length);
        }
    }
    println!("{tried} damaged records, none of them read");
}

/// A xorshift generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Pieces that decoders trip over: markers of MessagePack with lengths beyond the end, extreme
/// numbers, nesting.
const PIECES: [&[u8]; 24] = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdc\xff\xff",
    b"\xde\x7f\xff",
    b"\xce\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\0\0\0\0\0\0\0",
    b"\xce\0\x01\0\0",
    b"\xcb\x7f\xf0\0\0\0\0\0\0",
    b"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
    b"\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81",
    b"\xc0",
    b"\xc1",
    b"\x90",
    b"\x80",
    b"\x81\xa5Boxed",
    b"\xa4Unit",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"Boxed\":",
    b"\xff\xfe\xed\xa0\x80",
];

/// Makes one change: a flip, a byte, a piece, a cut, a repetition, a number, or a part of other
/// bytes.
fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below((bytes.len() - at).min(40) + 1);
    match random.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
        2 => drop(bytes.splice(at..end, random.of(&PIECES).iter().copied())),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].repeat(1 + random.below(40));
            drop(bytes.splice(at..at, again));
        }
        5 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
        6 => bytes.truncate(at),
        _ => {
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
    }
}

fn changed(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, other);
    }
    bytes.truncate(1 << 16);
    bytes
}

/// A reader of bytes, which returns true if it accepts them.
type Reads<'a> = dyn FnOnce(&[u8]) -> bool + 'a;

/// Returns payloads to begin with, in both formats.
fn payloads() -> Vec<Vec<u8>> {
    let value = serde_json::json!({
        "cents": 990, "who": "ana", "bytes": [1, 2, 3], "many": [[1, -1], [4_000_000_000_u32, 127]],
        "Named": { "next": { "Boxed": { "List": ["Unit", { "Boxed": "Unit" }] } }, "by": { "x": "Unit" } },
    });
    let named = serde_json::json!({ "Named": { "next": { "Boxed": "Unit" }, "by": { "x": { "List": ["Unit"] } } } });
    let nested = serde_json::json!([[1, 2], [3, u64::MAX], [[], [[[[{ "a": [null, true, 1.5] }]]]]]]);
    let values = [value, named, nested];
    let pack = |value| rmp_serde::to_vec_named(value).unwrap();
    values.iter().map(pack).chain(values.iter().map(|value| serde_json::to_vec(value).unwrap())).collect()
}

/// Returns manifests and texts to begin with.
async fn texts() -> Vec<Vec<u8>> {
    let task = |n: u32| std::future::ready(Ok::<_, std::convert::Infallible>(n));
    let workflow = Workflow::builder("w")
        .then("one", task)
        .route("way", |n: &u32| *n > 1, |route| route.arm(true, |arm| arm.then("two", task)).arm(false, |arm| arm))
        .wait_for_signal::<u32>("wait", "go")
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    runtime.start(&workflow, "id", 1).await.unwrap();
    let manifest = store.manifest(&workflow.hash()).await.unwrap().unwrap();
    let cursor = format!("2{}order-1", workflow.hash());
    vec![manifest.to_vec(), manifest.to_vec(), cursor.into_bytes(), workflow.hash().to_string().into_bytes()]
}

/// Method: golden records, payloads, manifests and texts are changed and spliced with each other by
/// a seeded generator. A changed record is refused; a changed body gets a correct checksum, so that
/// the code after the checksum is reached.
#[tokio::test]
async fn changed_and_spliced_bytes_do_no_harm() {
    let (golden, payloads, texts) = (golden(), payloads(), texts().await);
    let (splices, seed) = (variable("EVERSTEP_SPLICES").unwrap_or(SPLICES), variable("EVERSTEP_SEED").unwrap_or(SEED));
    let mut random = Random(seed | 1);
    let mut read = [0_u64; 4];
    for n in 0..splices {
        let (record, other): (&Record, &Record) = (random.of(&golden.records), random.of(&golden.records));
        let way = random.below(4);
        let (bytes, read_it): (Vec<u8>, Box<Reads<'_>>) = match way {
            0 => {
                let bytes = changed(&mut random, &record.bytes, &other.bytes);
                let differs = bytes != record.bytes;
                let stored = |bytes: &[u8]| golden.stored(record, &Bytes::copy_from_slice(bytes));
                (bytes, Box::new(move |bytes| stored(bytes) && differs))
            }
            1 => (changed(&mut random, &record.body, &other.body), Box::new(|body| golden.sealed(record, body))),
            2 => {
                let (one, other) = (random.of(&payloads).clone(), random.of(&payloads).clone());
                (changed(&mut random, &one, &other), Box::new(payload))
            }
            _ => {
                let (one, other) = (random.of(&texts).clone(), random.of(&texts).clone());
                (changed(&mut random, &one, &other), Box::new(unsealed))
            }
        };
        let what = || format!("EVERSTEP_SEED={seed}, splice {n}, way {way}, {}, {bytes:x?}", record.name);
        read[way] += u64::from(bounded(what, || read_it(&bytes)));
        // Another whole record, with its own id and key, is rightly read where it belongs.
        assert_eq!(read[0], 0, "{} was read although it was changed", what());
    }
    println!("{splices} splices with EVERSTEP_SEED={seed}; read: {read:?} of stored, sealed, payloads, texts");
    for (way, read) in read.iter().enumerate().skip(1) {
        assert!(*read * 50 > splices / 4, "only {read} of way {way} were read: the inside is hardly reached");
    }
}

#[test]
fn bounds_of_this_test_detect_allocations_and_panics() {
    // Nine mebibytes, and a panic.
    let allocates = || bounded(|| "too much".into(), || drop(std::hint::black_box(vec![1_u8; 9 << 20])));
    assert!(catch_unwind(allocates).is_err());
    let panics = || bounded(|| "a panic".into(), || panic!("as it should"));
    assert!(catch_unwind(panics).is_err());
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").is_dir());
}
