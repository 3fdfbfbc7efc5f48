// The second task takes text, where a number flows in.

use std::convert::Infallible;

use everstep::Workflow;

async fn count(text: String) -> Result<u32, Infallible> {
    Ok(text.len() as u32)
}

async fn shout(text: String) -> Result<String, Infallible> {
    Ok(text.to_uppercase())
}

fn main() {
    let _ = Workflow::builder("w").then("count", count).then("shout", shout).build();
}
