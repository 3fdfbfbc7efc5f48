//! Senders to instances that collect the signals they get.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everstep::{Checkpoint, InstanceHandle, LoopLimit, LoopResult, MessageError, Runtime, Workflow, task};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ROUND;
use crate::dice::Dice;
use crate::house::{House, PATIENCE};

const COLLECTORS: u32 = 8;
const SENDERS: u32 = 3;
/// Values of one sender.
const EACH: u32 = 1_000_000;
const LAST: u32 = u32::MAX;
/// The number of times that a signal with an unknown outcome is sent.
const TRIES: u32 = 4;

type Got = Vec<u32>;

async fn add((mut got, value): (Got, u32)) -> Result<LoopResult<Got, Got>, Infallible> {
    if value == LAST {
        return Ok(LoopResult::Done(got));
    }
    got.push(value);
    tokio::task::yield_now().await;
    Ok(LoopResult::Again(got))
}

fn collect(checkpoint: Checkpoint) -> Workflow<Got, Got> {
    Workflow::builder_for::<Got>("collect")
        .repeat("each", LoopLimit::Unlimited, |body| {
            body.wait_for_signal_keeping::<u32>("wait", "go").then("add", task(add).checkpoint(checkpoint))
        })
        .build()
        .unwrap()
}

/// Sends one signal until it is acknowledged; returns false if its outcome stayed unknown.
async fn send(handle: &InstanceHandle<Got>, value: u32) -> bool {
    let id = value.to_string();
    let mut tries = 0;
    loop {
        let sent = timeout(PATIENCE, handle.signal_with_id("go", &value, &id)).await;
        match sent.unwrap_or_else(|_| panic!("a signal to {} hangs", handle.id())) {
            Ok(()) => return true,
            Err(MessageError::OutcomeUnknown(_)) if tries < TRIES => tries += 1,
            Err(MessageError::OutcomeUnknown(_)) => return false,
            // The buffer is full.
            Err(MessageError::Refused(_)) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("a signal to {}: {error:?}", handle.id()),
        }
    }
}

/// Sends until told to stop; returns the acknowledged values, in order.
async fn sender(handle: InstanceHandle<Got>, number: u32, dice: Dice, stop: Arc<AtomicBool>) -> Got {
    let mut acknowledged = Vec::new();
    for value in (0..EACH).map(|n| number * EACH + n) {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if send(&handle, value).await {
            acknowledged.push(value);
        }
        if dice.one_in(4) {
            sleep(dice.micros(3_000)).await;
        }
    }
    acknowledged
}

fn assert_got(id: &str, got: &Got, acknowledged: &HashMap<u32, Got>) {
    let unique: HashSet<_> = got.iter().collect();
    assert_eq!(unique.len(), got.len(), "{id} took signals twice");
    for (sender, sent) in acknowledged {
        let sent_set: HashSet<_> = sent.iter().collect();
        let taken: Got = got.iter().filter(|value| sent_set.contains(value)).copied().collect();
        assert_eq!(&taken, sent, "{id} lost signals of sender {sender}, or took them out of order");
    }
}

pub(crate) async fn round(dice: Dice) {
    let house = House::draw(&dice, false).await;
    let checkpoint = if dice.one_in(2) { Checkpoint::Deferred } else { Checkpoint::Immediate };
    let workflow = collect(checkpoint);
    let builder = Runtime::builder(house.store.clone()).register(&workflow).limits(house.limits.clone());
    let runtime = builder.start().await.unwrap();
    let mut handles = Vec::new();
    for number in 0..COLLECTORS {
        handles.push(runtime.start(&workflow, format!("c{number}"), Vec::new()).await.unwrap());
    }
    house.storm.begin();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(HashMap::<String, HashMap<u32, Got>>::new()));
    let mut senders = JoinSet::new();
    for handle in &handles {
        for number in 0..SENDERS {
            let (handle, dice, stop) = (handle.clone(), dice.clone(), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            senders.spawn(async move {
                let id = handle.id().to_string();
                let sent = sender(handle, number, dice, stop).await;
                acknowledged.lock().unwrap().entry(id).or_default().insert(number, sent);
            });
        }
    }
    sleep(ROUND).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    house.storm.end();
    let acknowledged = acknowledged.lock().unwrap().clone();
    for handle in &handles {
        while !send(handle, LAST).await {}
        let got = timeout(PATIENCE, handle.result()).await;
        let got = got.unwrap_or_else(|_| panic!("{} does not end, {house}", handle.id())).unwrap();
        assert_got(handle.id().as_str(), &got, &acknowledged[handle.id().as_str()]);
    }
    let sent: usize = acknowledged.values().flat_map(HashMap::values).map(Vec::len).sum();
    println!("{house}, {checkpoint:?}: {sent} signals acknowledged, none lost");
    let shut = timeout(PATIENCE, runtime.shutdown(Duration::from_secs(1))).await;
    assert!(shut.is_ok(), "{house}: a shutdown hangs");
}
