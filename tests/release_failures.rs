//! A release whose commit fails: no caller is told that it was done, and nothing is stranded if it
//! was.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "store_failures/faulty.rs"]
mod faulty;

use common::{Gate, holding, quarantine, within};
use everstep::{MemoryStore, MessageError, Runtime, StatusCode, Workflow};
use faulty::{FAILURES, Fate, Faulty};

#[tokio::test]
async fn durable_release_of_unknown_outcome_resumes_by_itself() {
    // An instance is quarantined while its task runs, and released; the commit of the release fails
    // before or after the write. If it was written, the instance continues without another call;
    // otherwise it is released a second time.
    for fate in FAILURES {
        let (memory, gate) = (MemoryStore::new(), Gate::new());
        let workflow = Workflow::builder("w").then("hold", holding::<u32>(&gate)).build().unwrap();
        let runtime = Runtime::builder(memory.clone()).register(&workflow).start().await.unwrap();
        let run = runtime.start(&workflow, "id", 1).await.unwrap().run_id();
        gate.entered().await;
        drop(runtime);
        quarantine(&memory, "id", "for the test").await;

        let store = Faulty::over(memory);
        let runtime = Runtime::builder(store.store()).register(&workflow).start().await.unwrap();
        let handle = runtime.handle(&workflow, "id").await.unwrap();
        assert_eq!(handle.status().await.unwrap().code(), StatusCode::Quarantined);
        store.plan_for("id", 0, fate);
        let released = within(handle.release()).await;
        assert!(matches!(released, Err(MessageError::OutcomeUnknown(_))), "{fate:?}: {released:?}");
        if fate == Fate::FailsBefore {
            while within(handle.release()).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
        gate.open(2);
        assert_eq!(within(handle.result()).await, Ok(1), "{fate:?}");
        assert_eq!((handle.run_id(), store.failed()), (run, 1), "{fate:?}");
    }
}
