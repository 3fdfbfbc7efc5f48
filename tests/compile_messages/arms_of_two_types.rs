// Two arms that return different types.

use std::convert::Infallible;

use everstep::Workflow;

async fn show(n: u32) -> Result<String, Infallible> {
    Ok(n.to_string())
}

fn main() {
    let _ = Workflow::builder_for::<u32>("w")
        .route("large", |n: &u32| *n > 10, |route| route.arm(true, |arm| arm.then("show", show)).arm(false, |arm| arm))
        .build();
}
