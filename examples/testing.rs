//! Tests of a workflow, as a service would write them: in memory, with time that passes at once,
//! with stubs for tasks that cost money, and with a crash at every possible point.
//!
//! ```sh
//! cargo run --example testing --features testing
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use everstep::testing::{FinishError, Stub, TestBed, crash_everywhere};
use everstep::{
    BoxError, BuildErrors, ConflictPolicy, ResultError, RetryPolicy, SignalOutcome, StartOptions, Workflow, task,
};

const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

// The service's own code: two tasks with effects outside the process, and the workflow.

async fn charge(cents: u32) -> Result<String, BoxError> {
    Err(format!("no test may charge a real card {cents} cents").into())
}

async fn ship((receipt, approval): (String, SignalOutcome<String>)) -> Result<String, BoxError> {
    match approval {
        SignalOutcome::Received(by) => Err(format!("no test may ship {receipt}, approved by {by}").into()),
        SignalOutcome::TimedOut => Err(everstep::Permanent::new("no approval in time").into()),
    }
}

fn order() -> Result<Workflow<u32, String>, BuildErrors> {
    Workflow::builder("order")
        .then("charge", task(charge).retry(RetryPolicy::fixed(3, MINUTE)))
        .wait_for_signal_keeping_timeout::<String>("approval", "approved", WEEK)
        .then("ship", ship)
        .build()
}

// The tests. Each would be a `#[tokio::test]`.

/// Replaces the card: fails twice, then charges.
fn card() -> Stub<u32, String> {
    let card = Stub::new(|cents: u32| format!("receipt for {cents} cents"));
    card.fail_next(2, "the bank is not there");
    card
}

async fn shipped((receipt, approval): (String, SignalOutcome<String>)) -> Result<String, BoxError> {
    Ok(format!("{receipt}, shipped, {approval:?}"))
}

async fn a_charge_is_tried_again_with_the_same_key() -> Result<(), Box<dyn Error>> {
    let card = card();
    let order = order()?.with_stub("charge", card.clone())?.with_stub("ship", shipped)?;
    let runtime = TestBed::new().start(|builder| builder.register(&order)).await?;
    let handle = runtime.start(&order, "order-1", 990).await?;
    handle.signal("approved", &"ana".to_owned()).await?;
    let output = runtime.finish(&handle).await?;
    println!("  {output}");
    assert_eq!(output, "receipt for 990 cents, shipped, Received(\"ana\")");
    let keys: BTreeSet<_> = card.calls().iter().map(|call| call.context.idempotency_key()).collect();
    assert_eq!((card.calls().len(), keys.len()), (3, 1));
    Ok(())
}

async fn an_order_that_nobody_approves_fails_after_a_week() -> Result<(), Box<dyn Error>> {
    let order = order()?.with_stub("charge", card())?;
    let runtime = TestBed::new().start(|builder| builder.register(&order)).await?;
    let handle = runtime.start(&order, "order-1", 990).await?;
    match runtime.finish(&handle).await {
        Err(FinishError::Result(ResultError::Failed(failure))) => println!("  {failure}"),
        other => return Err(format!("the order ended with {other:?}").into()),
    }
    Ok(())
}

async fn no_crash_shows() -> Result<(), Box<dyn Error>> {
    let stubbed = |card: &Stub<u32, String>| -> Result<_, BoxError> {
        Ok(order()?.with_stub("charge", card.clone())?.with_stub("ship", shipped)?)
    };
    let report = crash_everywhere(
        card,
        |card, builder| match stubbed(card) {
            Ok(order) => builder.register(&order),
            Err(error) => unreachable!("{error}"),
        },
        async |card, runtime| {
            // As a careful caller does: all of it may be repeated.
            let order = stubbed(card)?;
            let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
            let handle = runtime.start_with(&order, "order-1", 990, options).await?.handle;
            handle.signal_with_id("approved", &"ana".to_owned(), "approval of order-1").await?;
            let output = runtime.finish(&handle).await?;
            // The bank drops a charge with a known key: the number of keys is the number of
            // charges.
            let charges: BTreeSet<_> = card.calls().iter().map(|call| call.context.idempotency_key()).collect();
            Ok((output, charges.len()))
        },
    );
    let report = report.await?;
    println!("  {} runs with {} crashes, all with the same outcome", report.runs, report.crashes);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("a charge is tried again with the same key");
    a_charge_is_tried_again_with_the_same_key().await?;
    println!("an order without an approval fails after a week");
    an_order_that_nobody_approves_fails_after_a_week().await?;
    println!("no crash shows");
    no_crash_shows().await
}
