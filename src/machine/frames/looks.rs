//! How many frames an event looks at.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{Codec, SignalOutcome, Token, Value};
use crate::definition::{Concurrency, Workflow};
use crate::id::{InstanceId, RunId};
use crate::limits::Limits;
use crate::machine::{Context, Event, NewRun, Snapshot, apply, start};
use crate::time::Timestamp;

thread_local! {
    static LOOKS: Cell<u32> = const { Cell::new(0) };
}

pub(super) fn count() {
    LOOKS.set(LOOKS.get() + 1);
}

const TIMEOUT: Duration = Duration::from_hours(1);

/// The items of a map, all of which wait for a signal.
struct Items {
    workflow: Workflow<Vec<u32>, Vec<SignalOutcome<u32>>>,
    limits: Limits,
    now: Timestamp,
    snapshot: Snapshot,
}

impl Items {
    fn start(items: u32) -> Self {
        let builder = Workflow::builder_for::<Vec<u32>>("w");
        let map =
            builder.map("m", Concurrency::Unlimited, |item| item.wait_for_signal_timeout::<u32>("wait", "go", TIMEOUT));
        let workflow = map.build().unwrap();
        let (limits, now) = (Limits::default(), Timestamp::from_micros(1_000_000));
        let payload = Codec::MessagePack.encode(&vec![1_u32], 100).unwrap();
        let (instance, run) = (InstanceId::new("one").unwrap(), RunId::generate(now));
        let new = NewRun { instance, run, codec: 1, input: payload, traceparent: None };
        let context = Context { program: workflow.definition().program(), limits: &limits, now };
        let (snapshot, _) = start(&context, new);
        let attempt_id = snapshot.running().next().unwrap();
        let leaf = Value::leaf(Bytes::from_static(&[1]), None).into_tokens();
        let list = std::iter::once(Token::List(items)).chain((0..items).flat_map(|_| leaf.clone())).collect();
        let mut started = Self { workflow, limits, now, snapshot };
        started.happen(Event::AttemptFinished { attempt_id, outcome: Ok(Value::from_tokens(list)) });
        started
    }

    /// Applies an event and returns how many frames it looks at.
    fn happen(&mut self, event: Event) -> u32 {
        let context = Context { program: self.workflow.definition().program(), limits: &self.limits, now: self.now };
        let before = LOOKS.get();
        apply(&context, &mut self.snapshot, event).unwrap();
        LOOKS.get() - before
    }
}

/// Method: in a pause, buffer as many signals as there are items, before and after the items'
/// timeouts; let time pass in between.
#[test]
fn event_in_a_pause_looks_at_no_more_frames_if_more_are_held() {
    const MANY: u32 = 4_000;
    let mut items = Items::start(MANY);
    items.happen(Event::Pause { reason: "".into(), by: "".into() });
    for n in 0..MANY {
        let signal = Event::Signal { name: "go".into(), id: format!("{n}").into(), payload: Bytes::from_static(&[1]) };
        let looks = items.happen(signal) + items.happen(Event::Wake);
        assert!(looks <= 4, "signal {n}: {looks} frames");
        if n == MANY / 2 {
            assert_eq!(items.snapshot.next_wake(), Some(items.now.after(TIMEOUT)));
            items.now = items.now.after(TIMEOUT);
            items.happen(Event::Wake);
            assert_eq!(
                items.snapshot.next_wake(),
                None,
                "those without a signal have gone on, and the others are held"
            );
        }
    }
}
