//! The process that is killed: a runtime that carries out requests, and prints the runtime's
//! answers.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::Path;
use std::sync::Arc;

use everstep::{FileStore, InstanceHandle, MessageError, ResultError, Runtime, StartError, Status, Workflow};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::kinds::{Kind, Trail};
use crate::ledger::Ledger;

pub(crate) const READY: &str = "READY";
pub(crate) const SAYS: &str = "SAYS ";
pub(crate) const REASON: &str = "the storm";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) instance: String,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Start(u32),
    Signal { id: String, value: u32 },
    Cancel,
    Pause,
    Unpause,
    Await,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Says {
    pub(crate) number: u64,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// Refused, with the instance's state as the reason.
    Refused(State),
    Ended(State),
    /// An answer that must never come.
    Wrong(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Unfinished,
    Paused,
    /// The output, if it was asked for.
    Completed(Option<Trail>),
    Cancelled,
}

/// Runs until it is killed, or its parent is gone.
pub(crate) async fn run(data: &Path, life: u32) {
    let workflows = Kind::ALL.map(Kind::workflow);
    let mut builder = Runtime::builder(FileStore::open(data.join("store")).await.unwrap());
    for workflow in &workflows {
        builder = builder.register(workflow);
    }
    let runtime = builder.provide(Ledger::open(&data.join("ledger"), life)).start().await.unwrap();
    println!("{READY}");
    let (sender, mut asks) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let _ = sender.send(serde_json::from_str::<Ask>(&line.unwrap()).unwrap());
        }
    });
    let workflows: Arc<HashMap<_, _>> =
        Arc::new(Kind::ALL.iter().map(|kind| format!("{kind:?}")).zip(workflows).collect());
    while let Some(ask) = asks.recv().await {
        let (runtime, workflows) = (runtime.clone(), Arc::clone(&workflows));
        tokio::spawn(async move {
            let answer = answer(&runtime, &workflows[&format!("{:?}", ask.kind)], &ask).await;
            let answer = answer.unwrap_or_else(|error| Answer::Wrong(error.to_string()));
            println!("{SAYS}{}", serde_json::to_string(&Says { number: ask.number, answer }).unwrap());
        });
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn answer(runtime: &Runtime, workflow: &Workflow<Trail, Trail>, ask: &Ask) -> Result<Answer, Error> {
    if let What::Start(number) = ask.what {
        return match runtime.start(workflow, &ask.instance, vec![number]).await {
            Ok(_) => Ok(Answer::Done),
            Err(StartError::InstanceAlreadyExists { status, .. }) => Ok(Answer::Refused(state(&status)?)),
            Err(error) => Err(error.into()),
        };
    }
    let handle = runtime.handle(workflow, &ask.instance).await?;
    let answer = match &ask.what {
        What::Start(_) => unreachable!("done above"),
        What::Await => return ended(&handle).await.map(Answer::Ended),
        What::Signal { id, value } => handle.signal_with_id("go", value, id).await,
        What::Cancel => handle.cancel(REASON, "ana").await,
        What::Pause => handle.pause(REASON, "ana").await,
        What::Unpause => handle.unpause().await,
    };
    match answer {
        Ok(()) => Ok(Answer::Done),
        Err(MessageError::AlreadyTerminal(status) | MessageError::NotPaused(status)) => {
            Ok(Answer::Refused(state(&status)?))
        }
        Err(error) => Err(error.into()),
    }
}

async fn ended(handle: &InstanceHandle<Trail>) -> Result<State, Error> {
    match handle.result().await {
        Ok(trail) => Ok(State::Completed(Some(trail))),
        Err(ResultError::Cancelled { .. }) => Ok(State::Cancelled),
        Err(error) => Err(error.into()),
    }
}

fn state(status: &Status) -> Result<State, Error> {
    match status {
        Status::InProgress | Status::Waiting { .. } | Status::AwaitingSignal { .. } => Ok(State::Unfinished),
        Status::Paused { .. } => Ok(State::Paused),
        Status::Completed => Ok(State::Completed(None)),
        Status::Cancelled { .. } => Ok(State::Cancelled),
        other => Err(format!("no instance should be {other}").into()),
    }
}
