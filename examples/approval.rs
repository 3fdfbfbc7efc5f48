//! A wait for a signal that ends after a while: one order is approved in time, another is not.
//!
//! ```text
//! cargo run --example approval
//! ```

use std::convert::Infallible;
use std::time::Duration;

use everstep::{BoxError, MemoryStore, Runtime, SignalOutcome, Workflow};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    item: String,
    cents: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Approval {
    by: String,
}

async fn price(item: String) -> Result<Order, Infallible> {
    let cents = 100 * item.len() as u64;
    Ok(Order { item, cents })
}

/// Decides on an order. The type says that the approval may be missing; the order is kept beside
/// it.
async fn decide((order, outcome): (Order, SignalOutcome<Approval>)) -> Result<String, Infallible> {
    let Order { item, cents } = order;
    Ok(match outcome {
        SignalOutcome::Received(Approval { by }) => format!("{item} for {cents} cents: approved by {by}"),
        SignalOutcome::TimedOut => format!("{item} for {cents} cents: no approval in time"),
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let purchase = Workflow::builder("purchase")
        .then("price", price)
        .wait_for_signal_keeping_timeout::<Approval>("approval", "approve", Duration::from_millis(500))
        .then("decide", decide)
        .build()?;

    // Nothing here must survive a crash; with a `FileStore` both would continue after a restart.
    let runtime = Runtime::builder(MemoryStore::new()).register(&purchase).start().await?;
    let lamp = runtime.start(&purchase, "order-1", "lamp".to_owned()).await?;
    let piano = runtime.start(&purchase, "order-2", "piano".to_owned()).await?;

    // The timer plays the manager, who approves the lamp and ignores the piano.
    let manager = lamp.clone();
    let timer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        manager.signal("approve", &Approval { by: "Ana".into() }).await
    });

    println!("order-1: {}", lamp.result().await?);
    println!("order-2: {}", piano.result().await?);
    timer.await??;
    runtime.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
