// A task's result has no serde derives, so it cannot be stored.

use std::convert::Infallible;

use everstep::Workflow;

struct Card {
    _digits: String,
}

async fn read(digits: String) -> Result<Card, Infallible> {
    Ok(Card { _digits: digits })
}

fn main() {
    let _ = Workflow::builder("w").then("read", read).build();
}
