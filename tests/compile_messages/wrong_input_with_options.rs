// As `wrong_input`, for a task with options.

use std::convert::Infallible;

use everstep::{RetryPolicy, Workflow, task};

async fn count(text: String) -> Result<u32, Infallible> {
    Ok(text.len() as u32)
}

async fn shout(text: String) -> Result<String, Infallible> {
    Ok(text.to_uppercase())
}

fn main() {
    let _ = Workflow::builder("w")
        .then("count", count)
        .then("shout", task(shout).retry(RetryPolicy::exponential(1)))
        .build();
}
