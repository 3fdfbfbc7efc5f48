//! The cost of poisonous instances for the healthy ones: two runtimes with a store each, one of
//! them with poison, take turns.
//!
//! The poison, all the time: instances whose read panics in the store, instances with a damaged
//! head, tasks that block their thread as they have declared, and a thousand instances of an
//! unregistered workflow.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use everstep::bytes::Bytes;
use everstep::machine::RowKey;
use everstep::store::{Answers, Loaded, Write};
use everstep::{
    BoxFuture, DefinitionHash, Durability, FileStore, InstanceId, RunId, Runtime, StatusCode, Store, StoreError,
    Timestamp, Workflow, task,
};

use crate::instances::{round, workload};
use crate::{Failed, Options};

const FOREIGN: usize = 1_000;
const BLOCKING: usize = 4;

type Outcome<T> = Result<T, Failed>;

/// A store in which heads of some instances are damaged, and which panics when others are read.
struct Poisonous(FileStore);

impl Poisonous {
    fn poison(instance: &InstanceId, found: Loaded) -> Loaded {
        assert!(!instance.as_str().starts_with("panics"), "poisonous");
        let mut head = found.head.to_vec();
        if instance.as_str().starts_with("damaged")
            && let Some(last) = head.last_mut()
        {
            *last ^= 1;
        }
        Loaded { head: head.into(), quarantine: found.quarantine }
    }
}

async fn block(ms: u64) -> Result<u64, Infallible> {
    std::thread::sleep(Duration::from_millis(ms));
    Ok(ms)
}

fn waiting(name: &str) -> Outcome<Workflow<u32, u32>> {
    Ok(Workflow::builder_for::<u32>(name).wait_for_signal::<u32>("wait", "go").build()?)
}

/// Starts one unreadable and one damaged instance after the other, until this is dropped.
async fn poison(runtime: Runtime, poisonous: Workflow<u32, u32>, round: usize, pause: Duration) {
    let mut all = tokio::task::JoinSet::new();
    for n in 0_u32.. {
        for kind in ["panics", "damaged"] {
            let (runtime, poisonous) = (runtime.clone(), poisonous.clone());
            // In a spawned task: a caller of the instance reads it too, which fails.
            all.spawn(async move {
                if let Ok(handle) = runtime.start(&poisonous, format!("{kind} {round} {n}"), n).await {
                    let _ = handle.signal("go", &n).await;
                }
            });
        }
        while all.try_join_next().is_some() {}
        tokio::time::sleep(pause).await;
    }
}

async fn open(options: &Options, dir: &Path) -> Outcome<FileStore> {
    Ok(FileStore::open_with(dir, options.durability()).await?)
}

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    // Messages of the panics would be most of the output.
    std::panic::set_hook(Box::new(|_| {}));
    let dir = tempfile::Builder::new().prefix("everstep-bench").tempdir_in(&options.dir)?;
    let (clean, poisoned) = (dir.path().join("clean"), dir.path().join("poisoned"));
    let (healthy, steps) = workload(options)?;
    let (foreign, poisonous) = (waiting("foreign")?, waiting("poisonous")?);
    let blocking = Workflow::builder("blocking").then("block", task(block).blocking()).build()?;

    let first = Runtime::builder(open(options, &poisoned).await?).register(&foreign).start().await?;
    for n in 0..FOREIGN {
        first.start(&foreign, format!("foreign {n}"), 0).await?;
    }
    first.shutdown(Duration::ZERO).await;

    let clean = Runtime::builder(open(options, &clean).await?).register(&healthy).start().await?;
    let store = Poisonous(open(options, &poisoned).await?);
    let builder = Runtime::builder(store).register(&healthy).register(&poisonous).register(&blocking);
    let poisoned = builder.start().await?;
    let (next, mut rounds) = (Arc::new(AtomicUsize::new(0)), Vec::new());
    // The first is the warm-up.
    for n in 0..=options.rounds {
        let without = round(options, &clean, &healthy, &next, (options.in_flight, steps)).await?;
        let begun = Instant::now();
        for b in 0..BLOCKING {
            let ms = u64::try_from(options.round().as_millis())?;
            poisoned.start(&blocking, format!("blocking {n} {b}"), ms).await?;
        }
        let beside =
            tokio::spawn(poison(poisoned.clone(), poisonous.clone(), n, Duration::from_millis(options.poison_ms)));
        let with = round(options, &poisoned, &healthy, &next, (options.in_flight, steps)).await?;
        beside.abort();
        tokio::time::sleep(options.round().saturating_sub(begun.elapsed())).await;
        rounds.push((without.per_s() / with.per_s(), without.per_s(), with.per_s(), with.count));
    }
    rounds.remove(0);
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let quarantined = poisoned.count(&everstep::InstanceFilter::new().status(StatusCode::Quarantined)).await?;
    for runtime in [clean, poisoned] {
        runtime.shutdown(Duration::from_secs(5)).await;
    }
    let (slowdown, without, with, count) = rounds[rounds.len() / 2];
    let (best, worst) = (rounds[0].0, rounds[rounds.len() - 1].0);
    if options.json {
        let figures = serde_json::json!({ "workload": "poison", "slowdown": slowdown, "slowdown_min": best,
            "slowdown_max": worst, "without_per_s": without, "with_per_s": with, "healthy": count,
            "quarantined": quarantined, "rounds": rounds.len() });
        println!("{figures}");
    } else {
        println!(
            "poison   slowdown of the healthy {slowdown:.2} ({best:.2} to {worst:.2}): {without:.0} tasks/s without, \
             {with:.0} with poison, {count} healthy instances in a round; {quarantined} quarantined  [{:?}, {} rounds]",
            options.durability(),
            rounds.len(),
        );
    }
    Ok(())
}

impl Store for Poisonous {
    fn commit<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<Answers, StoreError>> {
        self.0.commit(batch)
    }
    fn load<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<Option<Loaded>, StoreError>> {
        Box::pin(async move { Ok(self.0.load(instance).await?.map(|found| Self::poison(instance, found))) })
    }
    fn row<'a>(&'a self, run: RunId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.0.row(run, key)
    }
    fn rows<'a>(
        &'a self,
        run: RunId,
        prefix: &'a [u8],
        from: Option<&'a RowKey>,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.0.rows(run, prefix, from)
    }
    fn due<'a>(
        &'a self,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.0.due(after, limit)
    }
    fn instances<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        status: StatusCode,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.0.instances(definition, status, after, limit)
    }
    fn quarantined<'a>(
        &'a self,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<InstanceId>, StoreError>> {
        self.0.quarantined(after, limit)
    }
    fn ended<'a>(
        &'a self,
        status: StatusCode,
        before: Timestamp,
        after: Option<&'a (Timestamp, InstanceId)>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Timestamp, InstanceId)>, StoreError>> {
        self.0.ended(status, before, after, limit)
    }
    fn definitions(&self) -> BoxFuture<'_, Result<Vec<DefinitionHash>, StoreError>> {
        self.0.definitions()
    }
    fn save_manifest<'a>(
        &'a self,
        definition: &'a DefinitionHash,
        manifest: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.save_manifest(definition, manifest)
    }
    fn manifest<'a>(&'a self, definition: &'a DefinitionHash) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.0.manifest(definition)
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.0.sweep(limit)
    }
    fn reopen(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.reopen()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
    fn durability(&self) -> Durability {
        self.0.durability()
    }
}
