//! Forks: branches side by side, and the effect of a failed branch on the others.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use everstep::{FailureKind, MessageError, ResultError, RetryPolicy, StatusCode, TaskContext, Workflow, task};
use tokio::sync::mpsc::unbounded_channel;

use crate::common::{Counter, Gate, counting, holding, inc, reach_code, within};
use crate::{Dropped, World, both, task_failure, until, waiting_in};

#[tokio::test(flavor = "multi_thread")]
async fn failed_branch_cancels_siblings_and_fails_instance() {
    // One branch stays in its second task, one waits for a signal, and one fails when the test lets
    // it. The future is dropped and its token cancelled, no wait is left, and finished work is
    // kept, the branches' records too.
    let (gate, doomed, dropped, joined) = (Gate::new(), Gate::new(), Counter::default(), Counter::default());
    let (tell, mut tokens) = unbounded_channel();
    let hold = {
        let (gate, dropped) = (gate.clone(), dropped.clone());
        move |n: u32, context: TaskContext| {
            let (gate, dropped) = (gate.clone(), Dropped(dropped.clone()));
            tell.send(context.cancellation().clone()).unwrap();
            async move {
                let _dropped = dropped;
                gate.pass().await;
                Ok::<_, Infallible>(n)
            }
        }
    };
    let fail = {
        let doomed = doomed.clone();
        move |_: u32| {
            let doomed = doomed.clone();
            async move {
                doomed.pass().await;
                Err::<u32, _>("no luck")
            }
        }
    };
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("work", |fork| {
            fork.branch("holds", |branch| branch.then("inc", inc).then("hold", hold))
                .branch("waits", |branch| branch.wait_for_signal::<u32>("wait", "go"))
                .branch("fails", |branch| branch.then("fail", fail))
        })
        .join("join", counting::<(u32, u32, u32)>(&joined))
        .build()
        .unwrap();
    let world = World::new();
    let runtime = world.runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    doomed.entered().await;
    let token = tokens.recv().await.unwrap();
    assert!(!token.is_cancelled());
    assert_eq!(handle.waits().await.unwrap().len(), 1);

    doomed.open(1);
    let failure = task_failure(within(handle.result()).await);
    assert_eq!((failure.task.as_str(), failure.attempt), ("work/fails/fail", 1));
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Error, "no luck"));
    within(token.cancelled()).await;
    until(async || dropped.get(), |dropped| *dropped == 1).await;
    assert_eq!(handle.waits().await.unwrap(), []);
    assert!(matches!(handle.signal("go", &1_u32).await, Err(MessageError::AlreadyTerminal(_))));
    assert_eq!(handle.task_result("work/holds/inc").await, Ok(Some(2_u32)));
    assert_eq!(handle.task_result::<u32>("work/holds/hold").await, Ok(None));
    assert_eq!((world.branches(&handle).await, joined.get(), gate.count()), (3, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_branch_leaves_its_siblings_alone() {
    // One branch fails once and backs off; the other stays in its task all the while, and is not
    // cancelled.
    let (gate, tries) = (Gate::new(), Counter::default());
    let flaky = {
        let tries = tries.clone();
        move |n: u32| ready(if tries.hit() == 1 { Err("not yet") } else { Ok(n) })
    };
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("work", |fork| {
            fork.branch("a", |branch| branch.then("hold", holding::<u32>(&gate)))
                .branch("b", |branch| branch.then("flaky", task(flaky).retry(RetryPolicy::fixed(1, Duration::ZERO))))
        })
        .join("join", both)
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    until(async || handle.task_result::<u32>("work/b/flaky").await.unwrap(), Option::is_some).await;
    gate.open(1);
    assert_eq!(within(handle.result()).await, Ok(101));
    assert_eq!((gate.count(), tries.get()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_branch_leaves_its_siblings_running() {
    // One branch waits from the start, the other is held in its first task and then runs to its
    // end. The status is in progress until no task runs, then awaiting, and the join comes with the
    // signal.
    let gate = Gate::new();
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("work", |fork| {
            fork.branch("waits", |branch| branch.wait_for_signal::<u32>("wait", "go"))
                .branch("runs", |branch| branch.then("hold", holding::<u32>(&gate)).then("inc", inc))
        })
        .join("join", both)
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    let handle = runtime.start(&workflow, "id", 1).await.unwrap();
    gate.entered().await;
    assert_eq!(handle.status().await.unwrap().code(), StatusCode::InProgress);
    assert_eq!(waiting_in(&handle, 1).await[0].code(), StatusCode::AwaitingSignal);
    gate.open(1);
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    assert_eq!(handle.task_result("work/runs/inc").await, Ok(Some(2_u32)));
    handle.signal("go", &7_u32).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(702));
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_branch_failures_report_one() {
    // Both branches wait at a gate and are released together, a hundred times. Each time has a gate
    // of its own: the branch that is stopped gives its place at the gate back, at any moment.
    let gates: Vec<_> = (0..100).map(|_| Gate::new()).collect();
    let fail = |name: &'static str| {
        let gates = gates.clone();
        move |round: u32| {
            let gate = gates[round as usize].clone();
            async move {
                gate.pass().await;
                Err::<u32, _>(name)
            }
        }
    };
    let workflow = Workflow::builder_for::<u32>("w")
        .fork("work", |fork| {
            fork.branch("a", |branch| branch.then("fail", fail("a"))).branch("b", |b| b.then("fail", fail("b")))
        })
        .join("join", both)
        .build()
        .unwrap();
    let runtime = World::new().runtime(&workflow).await;
    for (round, gate) in (0..).zip(&gates) {
        let handle = runtime.start(&workflow, format!("i{round}"), round).await.unwrap();
        gate.entered().await;
        gate.entered().await;
        gate.open(2);
        let result = within(handle.result()).await;
        let failure = task_failure(result.clone());
        assert_eq!(failure.task.as_str(), format!("work/{}/fail", failure.message));
        assert_eq!(handle.result().await, result);
        assert!(matches!(result, Err(ResultError::Failed(_))));
    }
}
