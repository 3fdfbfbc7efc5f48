//! Reading back what was written.

use std::sync::Arc;

use bytes::Bytes;

use super::life::{Plan, commit_all, done, id, run, signal_rows};
use crate::id::NodePath;
use crate::machine::{RowChange, RowKey, RowPlace};
use crate::store::{Change, Condition, Loaded, Store, Write};

/// Heads and rows are returned byte for byte, for all bytes, sizes and instance ids; heads and rows
/// that were never written are not found.
pub async fn heads_and_rows_read_back_byte_for_byte(store: &Arc<dyn Store>) {
    let plan = Plan::new("reads");
    let longest = "x".repeat(256);
    let names = ["a", "ab", "abc", "a b", "ä", "order/42 ✓", "h", "%", "'; --", "A", longest.as_str()];
    let large: Bytes = (0..1_u32 << 20).flat_map(|n| [n.to_le_bytes()[1]]).collect::<Vec<u8>>().into();
    let every_byte: Bytes = (0..=u8::MAX).collect::<Vec<u8>>().into();
    let values = [Bytes::new(), every_byte, large, Bytes::from_static(&[0]), Bytes::from_static(&[0xff; 300])];
    let keys = [RowKey::Input, plan.result(0), plan.result(1), plan.result(2), RowKey::Signal(0)];
    let mut written = Vec::new();
    for (number, name) in (1_u8..).zip(names) {
        let (_, mut insert) = plan.start(name, number);
        let rows = keys.iter().zip(values.iter().cycle().skip(number.into()));
        insert.rows = rows.map(|(key, value)| RowChange { key: key.clone(), value: Some(value.clone()) }).collect();
        written.push(insert);
    }
    commit_all(store, &written).await;
    for Write { instance, change, rows, run, .. } in &written {
        let Change::Head(head) = change else { continue };
        let expected = Some(Loaded { head: head.clone(), quarantine: None });
        assert_eq!(done(store.load(instance).await), expected, "instance `{instance}`");
        for RowChange { key, value } in rows {
            let found = done(store.row(*run, key).await);
            // Not assert_eq, which would print a MiB.
            assert!(found == *value, "row {key:?} of `{instance}` is not what was written");
        }
        assert_eq!(done(store.row(*run, &RowKey::Signal(1)).await), None, "a row that was never written");
    }
    for unknown in ["b", "aa", "abcd", "ä ", "a/b"] {
        assert_eq!(done(store.load(&id(unknown)).await), None, "an instance that was never written");
    }
    assert_eq!(done(store.row(run(99), &RowKey::Input).await), None, "a row of a run that was never written");
}

/// Signal rows are returned by number, only those of their run, and no other rows.
pub async fn signal_rows_come_in_order_and_only_of_their_run(store: &Arc<dyn Store>) {
    let plan = Plan::new("signals");
    let numbers = [300, 2, 65_536, 0, 10, 255, 1 << 40, 256, 1, 9, 65_535];
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut lives = Vec::new();
    for n in [1, 2, 3] {
        let (life, mut insert) = plan.start(&format!("i{n}"), n);
        lives.push(life);
        insert = insert.row(RowKey::Input, Some(b"input")).row(plan.result(2), Some(b"result"));
        let row = |number: u64| Bytes::from(format!("run {n}, signal {number}"));
        insert.rows.extend(numbers.map(|number| RowChange { key: RowKey::Signal(number), value: Some(row(number)) }));
        commit_all(store, &[insert]).await;
        let expected: Vec<_> = sorted.iter().map(|number| (*number, row(*number))).collect();
        assert_eq!(signal_rows(store, run(n)).await, expected, "the signal rows of run {n}");
    }
    let Some(life) = lives.get_mut(1) else { panic!("three were started") };
    let update = life.pause().row(RowKey::Signal(10), None).row(RowKey::Signal(0), Some(b"only its id"));
    commit_all(store, &[update]).await;
    let rows = signal_rows(store, run(2)).await;
    sorted.retain(|number| *number != 10);
    assert!(rows.iter().map(|(number, _)| *number).eq(sorted), "a deleted signal row is not returned");
    assert_eq!(rows.first(), Some(&(0, Bytes::from_static(b"only its id"))), "a changed signal row");
    assert_eq!(signal_rows(store, run(9)).await, [], "a run without signals");
}

/// Rows with one prefix are returned in the order of their keys, with those keys, and no other
/// rows: live branches by number, ended ones by index.
pub async fn rows_come_by_prefix_in_the_order_of_their_keys(store: &Arc<dyn Store>) {
    let plan = Plan::new("rows");
    let (path, beside) = (NodePath::new("a/b"), NodePath::new("a/b/c"));
    let place = |path: &NodePath, of: &[u32]| RowPlace::new(path.clone(), of);
    let branch = |path: &NodePath, of: &[u32], index| RowKey::Branch(place(path, of), index);
    let branches = [0, 1, 255, 256, 70_000].map(|index| branch(&path, &[7], index));
    let frames = [1, 9, 255, 256, 1 << 40].map(RowKey::Frame);
    let others = [
        branch(&path, &[8], 3),
        branch(&beside, &[7], 2),
        RowKey::List(place(&path, &[7]), 0),
        RowKey::Result(place(&path, &[7])),
        RowKey::Branch(RowPlace { era: 1, ..place(&path, &[7]) }, 0),
        RowKey::Era(0),
        RowKey::Signal(1),
    ];
    for n in [1, 2] {
        let (_, mut insert) = plan.start(&format!("i{n}"), n);
        // Not written in the order of the keys.
        for key in frames.iter().rev().chain(others.iter()).chain(branches.iter().rev()) {
            let row = Bytes::from(format!("run {n}, {key:?}"));
            insert.rows.push(RowChange { key: key.clone(), value: Some(row) });
        }
        commit_all(store, &[insert]).await;
    }
    for (prefix, keys) in [(RowKey::FRAMES.to_vec(), &frames), (RowKey::branches(&place(&path, &[7])), &branches)] {
        let row = |key: &RowKey| (Bytes::from(key.to_bytes()), Bytes::from(format!("run 2, {key:?}")));
        let expected: Vec<_> = keys.iter().map(row).collect();
        assert_eq!(done(store.rows(run(2), &prefix, None).await), expected, "the rows with prefix {prefix:?}");
    }
    for (from, left) in [(0, 5), (9, 4), (10, 3), (256, 2), (1 << 40, 1), ((1 << 40) + 1, 0)] {
        let rows = done(store.rows(run(2), RowKey::FRAMES, Some(&RowKey::Frame(from))).await);
        let numbers = rows.iter().map(|(key, _)| key.clone());
        let expected = frames.iter().skip(5 - left).map(|key| Bytes::from(key.to_bytes()));
        assert!(numbers.eq(expected), "the branches from {from} on");
    }
    let before = done(store.rows(run(2), RowKey::FRAMES, Some(&RowKey::Signal(1))).await);
    assert_eq!(before.len(), 5, "from before the first key with the prefix");
    let behind = done(store.rows(run(2), RowKey::SIGNALS, Some(&RowKey::Frame(1))).await);
    assert_eq!(behind, [], "from after the last key with the prefix");
    assert_eq!(done(store.rows(run(9), RowKey::FRAMES, None).await), [], "a run without branches");
}

/// A definition's manifest is returned as last saved, separately for each definition.
pub async fn a_manifest_reads_back(store: &Arc<dyn Store>) {
    let (one, two, other) = (Plan::new("one"), Plan::new("two"), Plan::new("other"));
    let (first, second) = (Bytes::from_static(b"\x00first\xff"), Bytes::from(vec![7; 100_000]));
    for _ in 0..2 {
        done(store.save_manifest(&one.hash(), first.clone()).await);
        done(store.save_manifest(&two.hash(), second.clone()).await);
    }
    assert_eq!(done(store.manifest(&one.hash()).await), Some(first));
    assert_eq!(done(store.manifest(&two.hash()).await), Some(second.clone()));
    assert_eq!(done(store.manifest(&other.hash()).await), None, "a manifest that was never saved");
    done(store.save_manifest(&one.hash(), second.clone()).await);
    assert_eq!(done(store.manifest(&one.hash()).await), Some(second), "the manifest saved last");
    assert_eq!(done(store.definitions().await), [], "a definition without instances is not listed");
    let (_, insert) = one.start("i", 1);
    commit_all(store, &[insert.under(Condition::Absent)]).await;
    assert_eq!(done(store.definitions().await), [one.hash()]);
}
