//! Records of an upgraded instance: the rows of its values, and its earlier definitions.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::branches::{Point, Told, compare, large, list, number_in, rows_of, stored};
use super::fixtures::{NOW, instance};
use crate::codec::{LoopResult, Token, Value};
use crate::definition::{Builder, Concurrency, Definition, LoopLimit, UpgradeFrom, Workflow};
use crate::limits::Limits;
use crate::machine::value_record::decode_items;
use crate::machine::{Context, Envelope, Era, Event, Kind, RowKey, decode_head, encode_head, upgrade};

const WRITTEN: &str = "format-2/eras";

type Texts = Vec<String>;

async fn same<T: Send + 'static>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

async fn turn(texts: Texts) -> Result<LoopResult<Texts, Texts>, Infallible> {
    Ok(LoopResult::Done(texts))
}

async fn join((texts, _): (Texts, (Texts, String))) -> Result<Texts, Infallible> {
    Ok(texts)
}

/// Returns a definition with a loop around a map beside a wait. Each version has one more node at
/// the front, and another name for the first task.
fn definition(version: usize, first: &str, upgrade_from: Option<UpgradeFrom>) -> Arc<Definition> {
    let empty = Workflow::builder("eras").version(version.to_string());
    let builder = match upgrade_from {
        Some(upgrade_from) => empty.upgrades_from(upgrade_from).taking::<Texts>(),
        None => empty.taking::<Texts>(),
    };
    let front = |builder: Builder<Texts, Texts>, n| builder.delay(format!("front {n}"), Duration::from_hours(1));
    let workflow = (0..version)
        .fold(builder, front)
        .then(first, same::<Texts>)
        .then("small", same)
        .fork("both", |fork| {
            let each = |body: Builder<Texts, Texts>| {
                let map = body.map("each", Concurrency::AtMost(1), |item| item.then("step", same::<String>));
                map.then("turn", turn)
            };
            fork.branch("loop", |branch| branch.repeat("again", LoopLimit::Unlimited, each))
                .branch("ask", |branch| branch.wait_for_signal_keeping::<String>("ask", "answer"))
        })
        .join("join", join)
        .build()
        .unwrap();
    Arc::clone(workflow.definition())
}

fn versions() -> [Arc<Definition>; 3] {
    let first = definition(0, "a", None);
    let second = definition(1, "b", Some(UpgradeFrom::of(first.hash()).renamed("a", "b")));
    let third = definition(2, "a", Some(UpgradeFrom::of(second.hash()).renamed("b", "a")));
    [first, second, third]
}

fn take_over_by(told: &mut Told, newer: &Arc<Definition>) {
    let limits = Limits::default();
    let context = Context { program: newer.program(), limits: &limits, now: NOW };
    let old = told.definition.manifest().clone();
    let upgraded = upgrade(&context, newer, &old, &newer.upgrades_from()[0], &mut told.snapshot).unwrap();
    told.take(upgraded);
    told.definition = Arc::clone(newer);
    told.asked.clear();
    told.happen(Event::Resumed { alive: Vec::new(), process_crashed: false });
}

/// Returns the points. In each version an item of the map ends; in the second one the loop begins
/// its next iteration.
fn points() -> Vec<Point> {
    const STEP: &str = "both/loop/again/each/step";
    let [first, second, third] = versions();
    let (mut told, mut points) = (Told::start(first), Vec::new());
    told.end("a", Ok(large().into()));
    told.end("small", Ok(Bytes::from_static(b"\x93").into()));
    told.end("both/loop/again/each", Ok(list(&[large(), Bytes::from_static(b"\xa1b")])));
    told.end(STEP, Ok(large().into()));
    points.push(told.record("list_in_a_loop"));
    take_over_by(&mut told, &second);
    points.push(told.record("taken_over"));
    told.end(STEP, Ok(large().into()));
    told.end("both/loop/again/turn", Ok(Value::from(large()).behind(Token::Again)));
    told.end("both/loop/again/each", Ok(list(&[large(), large(), large()])));
    told.end(STEP, Ok(large().into()));
    take_over_by(&mut told, &third);
    told.end(STEP, Ok(large().into()));
    points.push(told.record("taken_over_again"));
    told.end(STEP, Ok(large().into()));
    told.end("both/loop/again/turn", Ok(Value::from(large()).behind(Token::Again)));
    told.end("both/loop/again/each", Ok(list(&[])));
    points.push(told.record("empty_list"));
    points
}

#[test]
fn records_of_eras_are_written_as_before() {
    compare(WRITTEN, &points());
}

/// Method: each point is read from its files: the head, the branches, and the records of each era.
#[test]
fn records_of_eras_read_and_write_unchanged() {
    let (versions, files) = (versions(), stored(WRITTEN));
    for point in points() {
        let (head, rows) = (&files[&format!("{}.bin", point.name)], rows_of(point.name, &files));
        let mut read = decode_head(&instance(), head).unwrap();
        let era = read.era() as usize;
        assert_eq!(read.definition(), versions[era].hash());
        let frames = rows.iter().filter(|(key, _)| key.starts_with(RowKey::FRAMES));
        read.take_frame_rows(frames.map(|(key, row)| (number_in(key), row.clone())).collect()).unwrap();
        read.check(versions[era].program()).unwrap();
        assert_eq!(encode_head(versions[era].program(), &read), point.head, "{}", point.name);
        for (number, version) in (0..).zip(&versions[..era]) {
            let key = RowKey::Era(number);
            let Era { definition, renames } = read.open_era(number, &rows[&key.to_bytes()]).unwrap();
            assert_eq!(definition, version.hash());
            let (now, before) = if number == 0 { ("b", "a") } else { ("a", "b") };
            assert_eq!((renames.before(now).as_deref(), renames.before(before)), (Some(before), None));
        }
    }
}

/// Method: replace every byte of every row in turn, with a correct checksum: an error, or a record
/// that can be inspected. Never a panic.
#[test]
fn rows_of_eras_with_any_byte_changed_do_no_harm() {
    let markers = [0x00, 0x7f, 0x81, 0x90, 0x9f, 0xa1, 0xc0, 0xc4, 0xcc, 0xcf, 0xdb, 0xdd, 0xdf, 0xff];
    let (mut eras, mut lists) = (0, 0);
    for point in points() {
        let head = decode_head(&instance(), &point.head).unwrap();
        for (key, row) in point.rows.iter().filter(|(key, _)| [6, 9].contains(&key[0])) {
            let kind = if key[0] == 9 { Kind::Era } else { Kind::List };
            let (envelope, body) = Envelope::open(&instance(), kind, key, row).unwrap();
            for (at, marker) in (0..body.len()).flat_map(|at| markers.map(|marker| (at, marker))) {
                let mut body = body.to_vec();
                body[at] = marker;
                if kind == Kind::Era {
                    let number = u32::from_be_bytes(key[1..].try_into().unwrap());
                    let opened = head.open_era(number, &envelope.seal(&body, key));
                    eras += usize::from(opened.is_ok_and(|era| era.renames.before("c").is_some()));
                } else {
                    lists += usize::from(decode_items(&body).is_some());
                }
            }
        }
    }
    assert!(eras > 100 && lists > 100, "most changes of texts and numbers are read: {eras}, {lists}");
}
