//! Callers that start instances and signal them until the runtime shuts down, and the answers they
//! got.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use everstep::{MessageError, Runtime, StartError, Workflow};
use tokio::sync::Notify;

use crate::SECOND;
use crate::common::{inc, open, same, within};

/// Returns a workflow of a task, a signal and a task: the store shows every start and every signal.
pub(crate) fn signalled() -> Workflow<u32, (u32, u32)> {
    Workflow::builder("signalled")
        .then("inc", inc)
        .wait_for_signal_keeping::<u32>("wait", "go")
        .then("same", same::<(u32, u32)>)
        .build()
        .unwrap()
}

/// Answers to callers, and a way to stop the callers.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) started: Mutex<Vec<u32>>,
    pub(crate) signalled: Mutex<Vec<u32>>,
    pub(crate) answers: AtomicUsize,
    pub(crate) enough: AtomicUsize,
    pub(crate) reached: Notify,
}

impl Told {
    pub(crate) fn until(answers: usize) -> Arc<Self> {
        Arc::new(Self { enough: AtomicUsize::new(answers), ..Self::default() })
    }

    fn answer(&self, list: &Mutex<Vec<u32>>, n: u32) {
        list.lock().unwrap().push(n);
        if self.answers.fetch_add(1, Ordering::SeqCst) + 1 >= self.enough.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    /// Waits until that many answers were given.
    pub(crate) async fn reach(&self) {
        if self.enough.load(Ordering::SeqCst) > 0 {
            within(self.reached.notified()).await;
        }
    }
}

pub(crate) const CALLERS: u32 = 16;

/// Starts instances and signals each, until an answer says that the runtime shuts down; returns
/// that answer.
pub(crate) async fn call(runtime: Runtime, caller: u32, told: Arc<Told>) -> String {
    let workflow = signalled();
    for turn in 0..1_000 {
        let n = turn * CALLERS + caller;
        let handle = match runtime.start(&workflow, format!("{n}"), n).await {
            Ok(handle) => handle,
            Err(StartError::ShuttingDown) => return "shutting down".into(),
            Err(StartError::OutcomeUnknown(error)) => return format!("unknown: {error}"),
            Err(error) => panic!("a start: {error:?}"),
        };
        told.answer(&told.started, n);
        match handle.signal("go", &(n * 10)).await {
            Ok(()) => told.answer(&told.signalled, n),
            Err(MessageError::ShuttingDown) => return "shutting down".into(),
            Err(MessageError::OutcomeUnknown(why)) => return format!("unknown: {why}"),
            Err(error) => panic!("a signal: {error:?}"),
        }
    }
    panic!("no answer said that the runtime shuts down");
}

/// Checks that every acknowledged start is there and continues, and every signalled instance ends
/// with its signal, once.
pub(crate) async fn is_all_there(path: &Path, told: &Told) {
    let workflow = signalled();
    let store = open(path).await;
    let runtime = within(Runtime::builder(store).register(&workflow).start()).await.unwrap();
    let (started, signalled) = (told.started.lock().unwrap().clone(), told.signalled.lock().unwrap().clone());
    assert!(started.len() + signalled.len() >= told.enough.load(Ordering::SeqCst));
    for n in started {
        let handle = within(runtime.handle(&workflow, format!("{n}"))).await.unwrap();
        if signalled.contains(&n) {
            assert_eq!(within(handle.result()).await, Ok((n + 1, n * 10)));
        } else {
            assert!(handle.status().await.is_ok());
        }
    }
    within(runtime.shutdown(SECOND)).await;
}
