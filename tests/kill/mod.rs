//! Helpers of the tests that kill a process at random moments.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

/// The longest that an undisturbed job may take. Never a measure of speed.
pub(crate) const PEACE: Duration = Duration::from_mins(1);

/// Returns the path of an example, which cargo builds beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(binary.exists(), "{} is missing: run the tests with cargo, which builds it", binary.display());
    binary
}

/// Numbers from a seed that is printed, so that a failing run can be repeated.
pub(crate) struct Random(u64);

impl Random {
    /// Takes the seed from `EVERSTEP_SEED`, if that is set.
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("EVERSTEP_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into());
        println!("EVERSTEP_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Kills the job after a while; returns true if it had ended by itself, and checks that it ended
/// well. Its output is piped.
pub(crate) async fn kill_after(mut child: Child, after: Duration) -> bool {
    if let Ok(ended) = tokio::time::timeout(after, child.wait()).await {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        child.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert!(ended.unwrap().success(), "the job failed: {said}");
        return true;
    }
    // Sends SIGKILL, and waits for the end.
    child.kill().await.unwrap();
    false
}
