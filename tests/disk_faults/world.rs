//! A runtime with instances, signals and tasks on a store on disk, and a ledger of acknowledgements
//! and of tasks that ran.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use everstep::lifecycle::load;
use everstep::{
    ConflictPolicy, Dep, FileStore, Health, InstanceHandle, InstanceId, MessageError, ResultError, Runtime, StartError,
    StartOptions, TaskContext, Workflow,
};
use tokio::task::JoinSet;

use crate::recorded::recorded as result;

pub(crate) const INSTANCES: u32 = 10;
/// The longest that a step may take before a test reports that it never happens.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A ledger whose lines are in the file before the process continues.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<File>);

impl Ledger {
    pub(crate) fn open(path: &Path) -> Self {
        Self(Arc::new(File::options().create(true).append(true).open(path).unwrap()))
    }

    pub(crate) fn note(&self, line: &str) {
        (&*self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Returns the number of times that each line is there.
pub(crate) fn read(ledger: &Path) -> BTreeMap<String, u32> {
    let mut lines = BTreeMap::new();
    for line in std::fs::read_to_string(ledger).unwrap_or_default().lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}

async fn first(input: String, context: TaskContext, Dep(ledger): Dep<Ledger>) -> Result<String, Infallible> {
    ledger.note(&format!("ran first of {}", context.instance()));
    Ok(input)
}

async fn last(
    (value, signal): (String, u32),
    context: TaskContext,
    Dep(ledger): Dep<Ledger>,
) -> Result<u32, Infallible> {
    ledger.note(&format!("ran last of {}", context.instance()));
    Ok(u32::try_from(value.len()).unwrap() + signal)
}

pub(crate) fn workflow() -> Workflow<String, u32> {
    let chain = Workflow::builder("faults").then("first", first).delay("delay", Duration::from_millis(1));
    chain.wait_for_signal_keeping::<u32>("wait", "go").then("last", last).build().unwrap()
}

pub(crate) fn name(number: u32) -> String {
    format!("i{number}")
}

/// Returns the node's results in the store: these tasks must never run again.
pub(crate) async fn recorded(store: &FileStore) -> Vec<String> {
    let mut recorded = Vec::new();
    for name in (0..INSTANCES).map(name) {
        for node in ["first", "last"] {
            if result(store, &name, node, &[]).await.is_some() {
                recorded.push(format!("ran {node} of {name}"));
            }
        }
    }
    recorded
}

pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) ledger: Ledger,
    workflow: Workflow<String, u32>,
    input_bytes: usize,
}

impl World {
    pub(crate) async fn on(store: FileStore, ledger: Ledger, input_bytes: usize) -> Result<Arc<Self>, String> {
        let workflow = workflow();
        let builder = Runtime::builder(store).register(&workflow).provide(ledger.clone());
        let runtime = builder.start().await.map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { runtime, ledger, workflow, input_bytes }))
    }

    /// Starts every missing instance, sends it its signal unless that was acknowledged before, and
    /// waits for its result. Records each one when it is acknowledged.
    pub(crate) fn drive(
        self: &Arc<Self>,
        before: &BTreeMap<String, u32>,
        allowed: impl Fn() -> bool + Clone + Send + Sync + 'static,
    ) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for number in 0..INSTANCES {
            let (world, allowed) = (Arc::clone(self), allowed.clone());
            let signalled = before.contains_key(&format!("signalled {}", name(number)));
            all.spawn(async move { world.drive_one(number, signalled, &allowed).await });
        }
        all
    }

    /// Starts, signals and awaits one instance. `allowed` returns true while a new write may be
    /// acknowledged.
    async fn drive_one(&self, number: u32, signalled: bool, allowed: &(impl Fn() -> bool + Sync)) {
        let (name, input) = (name(number), "x".repeat(self.input_bytes + number as usize));
        let handle = loop {
            let may_be = allowed();
            let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
            match self.runtime.start_with(&self.workflow, name.as_str(), input.clone(), options).await {
                Ok(started) => {
                    // An existing instance was not written.
                    assert!(
                        may_be || allowed() || started.existing.is_some(),
                        "{name} was acknowledged on a store that fails"
                    );
                    self.ledger.note(&format!("started {name}"));
                    break started.handle;
                }
                Err(StartError::ShuttingDown) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        if !signalled && !self.signal(&handle, number, allowed).await {
            return;
        }
        loop {
            match handle.result().await {
                Ok(result) => {
                    assert_eq!(result as usize, self.input_bytes + 2 * number as usize);
                    return self.ledger.note(&format!("ended {name}"));
                }
                Err(ResultError::ShuttingDown) => return,
                Err(ResultError::Handle(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{name} failed: {error}"),
            }
        }
    }

    /// Sends the signal until it is acknowledged; returns false if the runtime shuts down.
    async fn signal(&self, handle: &InstanceHandle<u32>, number: u32, allowed: &(impl Fn() -> bool + Sync)) -> bool {
        let name = name(number);
        loop {
            let may_be = allowed();
            match handle.signal_with_id("go", &number, "the only one").await {
                // An earlier try of unknown outcome was written.
                Err(MessageError::AlreadyTerminal(_)) => return true,
                Ok(()) => {
                    assert!(may_be || allowed(), "the signal of {name} was acknowledged on a store that fails");
                    self.ledger.note(&format!("signalled {name}"));
                    return true;
                }
                Err(MessageError::ShuttingDown) => return false,
                Err(error) => {
                    assert!(!matches!(error, MessageError::NotFound), "{name} is lost");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    pub(crate) async fn is_healthy(&self) {
        while self.runtime.health() != Health::Healthy {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Opens the directory without a fault: nothing acknowledged is missing, no recorded task runs
/// again, and every instance ends.
pub(crate) async fn check(data: &Path, ledger: &Path, input_bytes: usize, what: &str) {
    let before = read(ledger);
    let store = FileStore::open(data).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for number in 0..INSTANCES {
        let name = name(number);
        let is_there = load(&store, &InstanceId::new(&name).unwrap()).await.unwrap().is_some();
        assert!(is_there || !before.contains_key(&format!("started {name}")), "{what}: the start of {name} is lost");
    }
    let recorded = recorded(&store).await;
    for number in 0..INSTANCES {
        let last = format!("ran last of {}", name(number));
        assert!(recorded.contains(&last) || !before.contains_key(&format!("ended {}", name(number))), "{what}: {last}");
    }
    let after: PathBuf = ledger.with_extension("after");
    let world =
        World::on(store, Ledger::open(&after), input_bytes).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let ended = tokio::time::timeout(PATIENCE, world.drive(&before, || true).join_all()).await;
    assert!(ended.is_ok(), "{what}: {:?} after {before:?}, recorded {recorded:?}", read(&after));
    assert_eq!(world.runtime.health(), Health::Healthy, "{what}");
    world.runtime.shutdown(Duration::from_secs(1)).await;
    let after = read(&after);
    for number in 0..INSTANCES {
        assert!(after.contains_key(&format!("ended {}", name(number))), "{what}: {after:?}");
    }
    for (line, times) in after.iter().filter(|(line, _)| line.starts_with("ran ")) {
        assert!(*times == 1 && !recorded.contains(line), "{what}: {line} again, {times} times");
    }
}
