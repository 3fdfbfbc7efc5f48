//! Callers that make every kind of call on few ids, and the conditions that hold whatever they do.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use everstep::{
    ConflictPolicy, Dep, Health, InstanceFilter, InstanceHandle, InstanceId, Retention, RetryPolicy, Runtime,
    SignalOutcome, StartOptions, Status, StatusCode, TaskContext, Workflow, task,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ROUND;
use crate::dice::Dice;
use crate::house::{House, PATIENCE};

const IDS: u64 = 10;
const CALLERS: usize = 12;
const MS: Duration = Duration::from_millis(1);
/// The delay in a branch.
const DELAY: Duration = Duration::from_millis(5);

/// Records of the tasks of a round.
#[derive(Default)]
struct Ledger {
    /// Attempts in progress, by run and node.
    at_work: Mutex<HashMap<String, usize>>,
    /// Idempotency keys, by run and node.
    keys: Mutex<HashMap<String, String>>,
    /// The last end of the task before the delay, by run.
    before_delay: Mutex<HashMap<String, Instant>>,
    /// Broken promises.
    faults: Mutex<Vec<String>>,
}

impl Ledger {
    fn note(&self, fault: String) {
        self.faults.lock().unwrap().push(fault);
    }

    fn enter(self: &Arc<Self>, context: &TaskContext) -> AtWork {
        let at = format!("{} {} {}", context.instance(), context.run(), context.node());
        let mut at_work = self.at_work.lock().unwrap();
        let count = at_work.entry(at.clone()).or_default();
        *count += 1;
        if *count > 1 {
            self.note(format!("{at} runs twice at once"));
        }
        let key = context.idempotency_key();
        let first = self.keys.lock().unwrap().entry(at.clone()).or_insert_with(|| key.clone()).clone();
        if first != key {
            self.note(format!("{at} has two idempotency keys"));
        }
        AtWork { ledger: Arc::clone(self), at }
    }
}

/// One attempt in progress; dropped when it ends, in whatever way.
struct AtWork {
    ledger: Arc<Ledger>,
    at: String,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(count) = self.ledger.at_work.lock().unwrap().get_mut(&self.at) {
            *count -= 1;
        }
    }
}

async fn work(n: u32, Dep(ledger): Dep<Ledger>, Dep(dice): Dep<Dice>, context: TaskContext) -> Result<u32, String> {
    let _at_work = ledger.enter(&context);
    sleep(dice.micros(4_000)).await;
    if dice.one_in(8) { Err("unlucky".to_owned()) } else { Ok(n) }
}

async fn before_delay(n: u32, Dep(ledger): Dep<Ledger>, context: TaskContext) -> Result<u32, Infallible> {
    ledger.before_delay.lock().unwrap().insert(context.run().to_string(), Instant::now());
    Ok(n)
}

async fn after_delay(n: u32, Dep(ledger): Dep<Ledger>, context: TaskContext) -> Result<u32, Infallible> {
    let began = ledger.before_delay.lock().unwrap().get(&context.run().to_string()).copied();
    // The wall clock counts in whole microseconds.
    if began.is_none_or(|began| began.elapsed() + Duration::from_micros(1) < DELAY) {
        ledger.note(format!("the delay of {} ended early", context.instance()));
    }
    Ok(n)
}

fn workflow() -> Workflow<u32, u32> {
    let w = || task(work).retry(RetryPolicy::fixed(2, 3 * MS)).timeout(Duration::from_secs(20));
    Workflow::builder("races")
        .then("a", w())
        .fork("f", |fork| {
            fork.branch("x", |branch| {
                let branch = branch.then("xa", w()).then("xb", before_delay).delay("xd", DELAY);
                branch.then("xc", after_delay).then("xe", w())
            })
            .branch("y", |branch| branch.wait_for_signal_timeout::<u32>("yw", "go", 50 * MS))
        })
        .join("j", async |(x, _): (u32, SignalOutcome<u32>)| Ok::<_, Infallible>(x))
        .wait_for_signal_keeping_timeout::<u32>("w", "go", 100 * MS)
        .then("z", async |(n, _): (u32, SignalOutcome<u32>)| Ok::<_, Infallible>(n))
        .build()
        .unwrap()
}

/// One of the callers.
#[derive(Clone)]
struct Caller {
    runtime: Runtime,
    workflow: Arc<Workflow<u32, u32>>,
    ledger: Arc<Ledger>,
    dice: Dice,
    stop: Arc<AtomicBool>,
    actions: Arc<AtomicUsize>,
}

impl Caller {
    async fn run(self) {
        while !self.stop.load(Ordering::SeqCst) {
            let id = format!("r{}", self.dice.below(IDS));
            let action = self.dice.below(16);
            if timeout(PATIENCE, self.act(&id, action)).await.is_err() {
                self.ledger.note(format!("action {action} on {id} hangs"));
            }
            self.actions.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Makes one call. Any answer will do: the promises are checked elsewhere.
    async fn act(&self, id: &str, action: u64) {
        match action {
            0..=2 => drop(self.start(id, ConflictPolicy::UseExisting).await),
            3 => {
                if let Some(handle) = self.start(id, ConflictPolicy::TerminateExisting).await
                    && self.dice.one_in(2)
                {
                    self.wait_for_result(&handle).await;
                }
            }
            4 => drop(self.runtime.delete(&InstanceId::new(id).unwrap()).await),
            _ => {
                if let Ok(handle) = self.runtime.handle(&self.workflow, id).await {
                    self.message(&handle, action).await;
                }
            }
        }
    }

    async fn start(&self, id: &str, policy: ConflictPolicy) -> Option<InstanceHandle<u32>> {
        let options = StartOptions::new().policy(policy);
        let started = self.runtime.start_with(&self.workflow, id, 1, options).await;
        started.ok().map(|started| started.handle)
    }

    /// Waits for the result that an acknowledged run has in any case, unless it stays paused or
    /// quarantined.
    async fn wait_for_result(&self, handle: &InstanceHandle<u32>) {
        if timeout(PATIENCE * 3 / 4, handle.result()).await.is_err() {
            let status = handle.status().await;
            if !matches!(status, Ok(Status::Paused { .. } | Status::Quarantined { .. } | Status::Failed { .. })) {
                self.ledger.note(format!("{} run {} has no result: {status:?}", handle.id(), handle.run_id()));
            }
        }
    }

    async fn message(&self, handle: &InstanceHandle<u32>, action: u64) {
        match action {
            5..=7 => drop(handle.signal("go", &1_u32).await),
            8 => drop(handle.cancel("chaos", "test").await),
            9 => drop(handle.pause("chaos", "test").await),
            10 | 11 => drop(handle.unpause().await),
            12 => drop(handle.retry().await),
            13 => drop(handle.release().await),
            14 => drop(handle.waits().await),
            _ => {
                let Ok(mut watch) = handle.watch().await else { return };
                while let Ok(Some(_)) = timeout(200 * MS, watch.next()).await {}
            }
        }
    }
}

/// Lets an instance continue, and waits until it has ended or is gone.
async fn end(caller: &Caller, id: &str) {
    let ended = timeout(PATIENCE, async {
        loop {
            let Ok(handle) = caller.runtime.handle(&caller.workflow, id).await else { return };
            match handle.status().await {
                Ok(Status::Paused { .. }) => drop(handle.unpause().await),
                Ok(Status::Quarantined { .. }) => drop(handle.release().await),
                Ok(status) if status.is_terminal() => return,
                _ => {}
            }
            sleep(20 * MS).await;
        }
    });
    if ended.await.is_err() {
        let status = match caller.runtime.handle(&caller.workflow, id).await {
            Ok(handle) => format!("{:?}, waits {:?}", handle.status().await, handle.waits().await),
            Err(error) => error.to_string(),
        };
        caller.ledger.note(format!("{id} does not end: {status}"));
    }
}

/// Checks, once every instance has ended, that no attempt is in progress, no instance is
/// quarantined, and the runtime is healthy.
async fn assert_quiet(caller: &Caller, house: &House) {
    let quiet = timeout(PATIENCE, async {
        let is_busy = || caller.ledger.at_work.lock().unwrap().values().any(|count| *count > 0);
        while is_busy() || caller.runtime.health() != Health::Healthy {
            sleep(20 * MS).await;
        }
    });
    if quiet.await.is_err() {
        let at_work: Vec<_> =
            caller.ledger.at_work.lock().unwrap().iter().filter(|at| *at.1 > 0).map(|at| at.0.clone()).collect();
        caller.ledger.note(format!("left at work: {at_work:?}, {:?}", caller.runtime.health()));
    }
    let aside = InstanceFilter::new().status(StatusCode::Quarantined);
    assert_eq!(caller.runtime.count(&aside).await.unwrap(), 0, "{house}");
    let faults = caller.ledger.faults.lock().unwrap().clone();
    assert!(faults.is_empty(), "{house}: {faults:#?}");
}

pub(crate) async fn round(dice: Dice) {
    let house = House::draw(&dice, true).await;
    let retention =
        if dice.one_in(2) { Retention::new().completed(Duration::ZERO).cancelled(50 * MS) } else { Retention::new() };
    let (ledger, workflow) = (Arc::new(Ledger::default()), Arc::new(workflow()));
    let builder = Runtime::builder(house.store.clone()).register(&workflow).limits(house.limits.clone());
    let builder = builder.retention(retention).provide_arc(Arc::clone(&ledger)).provide(dice.clone());
    let runtime = builder.start().await.unwrap();
    house.storm.begin();
    let (stop, actions) = (Arc::default(), Arc::default());
    let caller = Caller { runtime, workflow, ledger, dice, stop, actions };
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(caller.clone().run());
    }
    sleep(ROUND).await;
    caller.stop.store(true, Ordering::SeqCst);
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    house.storm.end();
    let ended = (0..IDS).map(|number| {
        let caller = caller.clone();
        async move { end(&caller, &format!("r{number}")).await }
    });
    ended.collect::<JoinSet<_>>().join_all().await;
    assert_quiet(&caller, &house).await;
    println!("{house}: {} actions, everything ended", caller.actions.load(Ordering::SeqCst));
    let shut = timeout(PATIENCE, caller.runtime.shutdown(Duration::from_secs(1))).await;
    assert!(shut.is_ok(), "{house}: a shutdown hangs");
}
