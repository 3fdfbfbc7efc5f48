//! The wall clock is set forward and back while instances wait. Durable times are points of the
//! wall clock: they end once, when it shows that point. Times that live in the process follow
//! elapsed time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;
mod kill;
#[path = "clock_jumps/world.rs"]
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Gate, holding, still_clock, within};
use everstep::{
    BoxFuture, Clock, Failure, Limits, ManualClock, MemoryStore, ResultError, Runtime, Status, Timestamp, Workflow,
    task,
};
use kill::Random;
use world::{KINDS, Kind, Waiting, World, an_hour};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const MOMENT: Duration = Duration::from_micros(1);
/// The longest that the timers sleep before they look at the wall clock again.
const LOOK: Duration = SECOND;

#[tokio::test(flavor = "multi_thread")]
async fn clock_set_back_makes_timers_wait_for_wall_time() {
    // An hour elapses while the wall clock shows one less; a delay due a minute earlier shows that
    // the timers have looked. All end at their point.
    let world = World::new(&[HOUR, HOUR.saturating_sub(MINUTE)]).await;
    let mut waiting = Vec::new();
    for workflow in (0..2 * KINDS.len()).step_by(2) {
        waiting.push(world.start(workflow, format!("{workflow}")).await);
    }
    let began = world.clock.now();
    world.clock.set_wall(began.before(HOUR));
    let probe = world.start(1, "probe".into()).await;
    for _ in 0..12 {
        world.clock.advance(5 * MINUTE);
    }
    assert_eq!(world.clock.now(), began);
    world.ends(&probe).await;
    for waiting in &waiting {
        world.still_waits(waiting).await;
    }
    world.clock.set_wall(began.after(HOUR));
    world.look();
    for waiting in &waiting {
        world.ends(waiting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wait_ends_a_moment_before_its_time() {
    // The wall clock is set to a second before the point, from later, from earlier and from far
    // off; another delay that is due earlier shows that the timers have looked.
    let world = World::new(&[HOUR, HOUR.saturating_sub(SECOND)]).await;
    let mut waiting = Vec::new();
    for workflow in (0..2 * KINDS.len()).step_by(2) {
        waiting.push(world.start(workflow, format!("{workflow}")).await);
    }
    let due = waiting.iter().map(|waiting| waiting.due).min().unwrap();
    let probe = world.start(1, "probe".into()).await;
    world.clock.set_wall(due.before(24 * HOUR));
    world.look();
    world.clock.set_wall(due.before(LOOK).before(MOMENT));
    world.look();
    assert_eq!(world.clock.now(), due.before(MOMENT));
    world.ends(&probe).await;
    for waiting in &waiting {
        world.still_waits(waiting).await;
    }
    world.clock.set_wall(due);
    world.look();
    for waiting in &waiting {
        world.ends(waiting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_timers_fire_at_the_first_tick_after_suspend() {
    // The machine sleeps: the wall clock moves nine hours on, and no time elapses. Then one second
    // elapses, no more.
    let (world, waiting) = an_hour().await;
    world.clock.set_wall(world.clock.now().after(9 * HOUR));
    world.look();
    for waiting in &waiting {
        world.ends(waiting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_up_survives_a_clock_set_back_on_its_way() {
    // The timers see the point, and the clock is set back before the instance is asked, many times
    // over; then it stays.
    let (world, waiting) = an_hour().await;
    let due = waiting[0].due;
    for n in 0..200 {
        world.clock.set_wall(due.after(MINUTE));
        world.clock.advance(LOOK);
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
        world.clock.set_wall(due.before(HOUR));
        world.clock.advance(MOMENT);
    }
    world.clock.set_wall(due);
    world.look();
    for waiting in &waiting {
        let result = within(waiting.handle.result()).await;
        assert!(matches!(result, Ok(7) | Err(ResultError::Failed(Failure::DeadlineExceeded))), "{result:?}");
        assert!(world.ledger.of(&waiting.id).len() <= 1, "{} continued more than once", waiting.id);
    }
}

/// A clock that shows another time to its next few readers, and records the sleeps asked of it.
#[derive(Clone)]
struct Flickering {
    clock: ManualClock,
    shown: Arc<Mutex<(u32, Timestamp)>>,
    sleeps: Arc<Mutex<Vec<Duration>>>,
}

impl Flickering {
    fn new() -> Self {
        let clock = still_clock();
        Self { shown: Arc::new(Mutex::new((0, clock.now()))), clock, sleeps: Arc::default() }
    }

    /// Waits until a sleep of this length has begun.
    async fn sleeps(&self, duration: Duration) {
        let asked = async {
            while !self.sleeps.lock().unwrap().contains(&duration) {
                tokio::task::yield_now().await;
            }
        };
        within(asked).await;
    }
}

impl Clock for Flickering {
    fn now(&self) -> Timestamp {
        let mut shown = self.shown.lock().unwrap();
        if shown.0 == 0 {
            return self.clock.now();
        }
        shown.0 -= 1;
        shown.1
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = self.clock.sleep(duration);
        self.sleeps.lock().unwrap().push(duration);
        sleep
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_up_at_a_clock_set_back_is_rearmed() {
    // The timers see the point of an instance's deadline. The instance, whose task runs, sees an
    // hour before it, as one of the next n readers of the clock. Once the clock shows the point
    // again, the deadline counts.
    let (clock, gate) = (Flickering::new(), Gate::new());
    let workflow = Workflow::builder("w").deadline(HOUR).then("hold", holding::<u32>(&gate)).build().unwrap();
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone());
    let runtime = builder.start().await.unwrap();
    for looks in 1..=6 {
        let due = clock.clock.now().after(HOUR);
        let handle = within(runtime.start(&workflow, format!("{looks}"), 1)).await.unwrap();
        gate.entered().await;
        *clock.shown.lock().unwrap() = (looks, due);
        clock.clock.advance(LOOK);
        let looked = async {
            // After many reads of the clock the instance sees the point as well, and ends.
            while clock.shown.lock().unwrap().0 > 0 && handle.status().await.unwrap() == Status::InProgress {
                clock.clock.advance(LOOK);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(looked).await;
        clock.shown.lock().unwrap().0 = 0;
        // The instance answers after the wake-up that the timers sent: it has arrived.
        let _ = within(handle.pause("x", "y")).await;
        clock.clock.set_wall(due);
        let ended = common::moving(&clock.clock, LOOK, handle.result()).await;
        assert_eq!(ended, Err(ResultError::Failed(Failure::DeadlineExceeded)), "{looks} looks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timeout_of_running_task_follows_elapsed_time() {
    // The wall clock is set by hours, both ways: the attempt neither times out early nor gets more
    // time. An attempt with a second less shows that its timer was checked.
    let (clock, gate) = (Flickering::new(), Gate::new());
    let held = |name: &str, timeout| {
        let hold = task(holding::<u32>(&gate)).timeout(timeout);
        Workflow::builder(name).then("hold", hold).build().unwrap()
    };
    let (longer, shorter) = (held("longer", MINUTE), held("shorter", MINUTE.saturating_sub(SECOND)));
    let builder = Runtime::builder(MemoryStore::new()).register(&longer).register(&shorter);
    let runtime = builder.clock(clock.clone()).start().await.unwrap();
    let longer = runtime.start(&longer, "longer", 1).await.unwrap();
    let shorter = runtime.start(&shorter, "shorter", 1).await.unwrap();
    clock.sleeps(MINUTE).await;
    clock.sleeps(MINUTE.saturating_sub(SECOND)).await;
    let clock = clock.clock;
    for hours in [1, 30] {
        clock.set_wall(clock.now().after(hours * HOUR));
        clock.advance(LOOK);
        clock.set_wall(clock.now().before(2 * hours * HOUR));
        clock.advance(LOOK);
    }
    clock.advance(MINUTE.saturating_sub(SECOND + 4 * LOOK + MOMENT));
    assert_eq!(shorter.status().await.unwrap(), Status::InProgress);
    clock.advance(MOMENT);
    let timed_out = |result: Result<u32, ResultError>| {
        let Err(ResultError::Failed(Failure::Task(failure))) = result else { panic!("{result:?}") };
        assert_eq!(failure.kind, everstep::FailureKind::TimedOut);
    };
    timed_out(within(shorter.result()).await);
    assert_eq!(longer.status().await.unwrap(), Status::InProgress);
    clock.advance(SECOND);
    timed_out(within(longer.result()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_order_survives_a_clock_set_back() {
    // The only slot is taken; each further instance queues at a wall clock an hour before that of
    // the previous one.
    let (clock, gate, order) = (still_clock(), Gate::new(), Arc::<Mutex<Vec<u32>>>::default());
    let noting = {
        let (gate, order) = (gate.clone(), Arc::clone(&order));
        move |n: u32| {
            order.lock().unwrap().push(n);
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Ok::<_, std::convert::Infallible>(n)
            }
        }
    };
    let workflow = Workflow::builder("w").then("noting", noting).build().unwrap();
    let mut limits = Limits::default();
    limits.tasks_running_max = 1;
    let builder = Runtime::builder(MemoryStore::new()).register(&workflow).clock(clock.clone()).limits(limits);
    let runtime = builder.start().await.unwrap();
    let mut handles = Vec::new();
    for n in 0..6 {
        handles.push(within(runtime.start(&workflow, format!("{n}"), n)).await.unwrap());
        if n == 0 {
            gate.entered().await;
        }
        // The answer shows that its actor has handed the task out.
        let handle = handles.last().unwrap();
        within(handle.pause("x", "y")).await.unwrap();
        within(handle.unpause()).await.unwrap();
        clock.set_wall(clock.now().before(HOUR));
    }
    gate.open(6);
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
}

/// The number of stories, and of clock jumps in each.
const STORIES: u64 = 6;
const JUMPS: usize = 40;

/// Method: instances start, the clock is set at random, and the runtime restarts now and then. The
/// model: an instance ends as soon as the wall clock has shown its point while the timers looked,
/// and not before.
#[tokio::test(flavor = "multi_thread")]
async fn random_clock_jumps_end_waits_as_the_model_says() {
    let mut random = Random::seeded();
    let stories = std::env::var("EVERSTEP_STORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(STORIES);
    for story in 0..stories {
        let mut world = World::new(&[7 * MINUTE, HOUR, 5 * HOUR]).await;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut ended = 0;
        for jump in 0..JUMPS {
            for n in 0..random.below(3) {
                let workflow = usize::try_from(random.below(world.workflows.len() as u64)).unwrap();
                waiting.push(world.start(workflow, format!("{story} {jump} {n}")).await);
            }
            if random.below(8) == 0 {
                world.restart().await;
                for waiting in &mut waiting {
                    let of = |(kind, _, _): &&(Kind, Duration, Workflow<u32, u32>)| *kind == waiting.kind;
                    for (_, _, workflow) in world.workflows.iter().filter(of) {
                        let handle = within(world.runtime.as_ref().unwrap().handle(workflow, &waiting.id)).await;
                        if let Ok(handle) = handle {
                            waiting.handle = handle;
                        }
                    }
                }
            }
            let by = MOMENT * u32::try_from(random.below(4_000_000_000)).unwrap();
            match random.below(4) {
                0 => world.clock.set_wall(world.clock.now().before(by)),
                1 => world.clock.set_wall(world.clock.now().after(by)),
                2 => world.clock.advance(by),
                // To a moment before the first point, or right to it.
                _ => {
                    let due = waiting.first().map_or(world.clock.now(), |waiting| waiting.due).before(LOOK);
                    world.clock.set_wall(if by.as_micros().is_multiple_of(2) { due } else { due.before(MOMENT) });
                }
            }
            world.look();
            let now = world.clock.now();
            let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| waiting.due <= now);
            for due in &due {
                world.ends(due).await;
            }
            for later in &later {
                world.still_waits(later).await;
            }
            ended += due.len();
            waiting = later;
        }
        let last = waiting.iter().map(|waiting| waiting.due).max().unwrap_or(world.clock.now());
        world.clock.set_wall(last);
        world.look();
        for waiting in &waiting {
            world.ends(waiting).await;
        }
        println!("story {story}: {ended} ended between jumps, {} in the end", waiting.len());
    }
}
