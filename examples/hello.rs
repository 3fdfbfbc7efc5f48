//! A workflow that survives `kill -9`. Run it, kill it within five seconds, and run it again.
//!
//! ```sh
//! cargo run --example hello
//! ```

use std::time::Duration;

use everstep::{BoxError, ConflictPolicy, FileStore, Runtime, StartOptions, Workflow};

async fn reserve(item: String) -> Result<String, BoxError> {
    println!("reserving the {item}");
    Ok(format!("{item} reserved"))
}

async fn ship(reservation: String) -> Result<String, BoxError> {
    println!("shipping");
    Ok(format!("{reservation} and shipped"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let order = Workflow::builder("order")
        .then("reserve", reserve)
        .delay("cool down", Duration::from_secs(5))
        .then("ship", ship)
        .build()?;
    let store = FileStore::open("hello-data").await?;
    let runtime = Runtime::builder(store).register(&order).start().await?;

    let options = StartOptions::new().policy(ConflictPolicy::UseExisting);
    let started = runtime.start_with(&order, "order-42", "lamp".to_owned(), options).await?;
    println!("{}", started.handle.result().await?);
    runtime.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
