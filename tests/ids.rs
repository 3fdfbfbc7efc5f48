//! Names and ids at the edge: every entry point refuses one that is empty, too long or not
//! printable, with a typed error and before any write.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{inc, reach_code, waiting, within};
use everstep::limits::{INSTANCE_ID_BYTES_MAX, NAME_BYTES_MAX, SIGNAL_ID_BYTES_MAX, TRACEPARENT_BYTES_MAX};
use everstep::{
    BuildErrors, HandleError, IdError, InstanceFilter, InstanceId, ListCursor, MemoryStore, MessageError, Runtime,
    StartError, StartOptions, StatusCode, Store as _, Workflow,
};

/// Returns texts that are no id, for an id of at most `bytes_max` bytes.
fn bad(bytes_max: usize) -> Vec<String> {
    let controls = ["a\0b", "a\nb", "\x1b[31m", "\u{7f}", "\u{85}", "tab\t"].map(str::to_owned);
    let too_long = ["x".repeat(bytes_max + 1), "é".repeat(bytes_max / 2 + 1), "x".repeat(1 << 20)];
    controls.into_iter().chain(too_long).chain([String::new()]).collect()
}

/// Returns texts that are ids: ids are never paths nor parts of a query.
fn good(bytes_max: usize) -> Vec<String> {
    let odd = ["../../etc/passwd", "a/b", "CON", "' OR 1=1 --", "%00", "order/42 ✓", "\u{1f980}"].map(str::to_owned);
    odd.into_iter().chain(["x".repeat(bytes_max), "é".repeat(bytes_max / 2)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_instance_ids_are_refused_at_every_entry() {
    let (store, workflow) = (MemoryStore::new(), waiting("w"));
    let runtime = Runtime::builder(store.clone()).register(&workflow).start().await.unwrap();
    for text in bad(INSTANCE_ID_BYTES_MAX) {
        let shown = text.get(..20).unwrap_or(&text);
        let start = within(runtime.start(&workflow, &text, 1)).await;
        assert!(matches!(start, Err(StartError::Id(_))), "{shown:?}: {start:?}");
        let start = within(runtime.start_with(&workflow, &text, 1, StartOptions::new())).await;
        assert!(matches!(start, Err(StartError::Id(_))), "{shown:?}: {start:?}");
        let handle = within(runtime.handle(&workflow, &text)).await;
        assert!(matches!(handle, Err(HandleError::Id(_))), "{shown:?}: {handle:?}");
        assert!(InstanceId::new(&text).is_err(), "{shown:?}");
        assert!(format!("8{text}").parse::<ListCursor>().is_err(), "{shown:?}");
    }
    assert_eq!(runtime.count(&InstanceFilter::new()).await.unwrap(), 0, "nothing was stored");
    for text in good(INSTANCE_ID_BYTES_MAX) {
        let handle = within(runtime.start(&workflow, &text, 1)).await.unwrap();
        reach_code(&handle, StatusCode::AwaitingSignal).await;
        within(handle.signal("go", &7_u32)).await.unwrap();
        assert_eq!(within(handle.result()).await, Ok(7), "{text:?}");
        assert!(store.load(&InstanceId::new(&text).unwrap()).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_signal_ids_and_names_are_refused() {
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    let handle = within(runtime.start(&workflow, "id", 1)).await.unwrap();
    reach_code(&handle, StatusCode::AwaitingSignal).await;
    for text in bad(SIGNAL_ID_BYTES_MAX) {
        let sent = within(handle.signal_with_id("go", &7_u32, &text)).await;
        assert!(matches!(sent, Err(MessageError::SignalId(_))), "{sent:?}");
        let sent = within(handle.signal(&text, &7_u32)).await;
        assert!(matches!(sent, Err(MessageError::Signal(_))), "{sent:?}");
    }
    let reason = "x".repeat(1 << 20);
    assert!(matches!(within(handle.cancel(&reason, "who")).await, Err(MessageError::Refused(_))));
    assert!(matches!(within(handle.pause("why", &reason)).await, Err(MessageError::Refused(_))));
    within(handle.signal_with_id("go", &7_u32, &"x".repeat(SIGNAL_ID_BYTES_MAX))).await.unwrap();
    assert_eq!(within(handle.result()).await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_traceparents_are_refused() {
    // The traceparent comes from a caller's header, and would be in every write.
    let workflow = waiting("w");
    let runtime = Runtime::builder(MemoryStore::new()).register(&workflow).start().await.unwrap();
    for text in bad(TRACEPARENT_BYTES_MAX) {
        let options = StartOptions::new().traceparent(text);
        let start = within(runtime.start_with(&workflow, "id", 1, options)).await;
        let refused = matches!(
            start,
            Err(StartError::Id(IdError::Empty { what } | IdError::TooLong { what, .. } | IdError::BadCharacter { what, .. }))
                if what == "traceparent"
        );
        assert!(refused, "{start:?}");
    }
    let options = StartOptions::new().traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    within(runtime.start_with(&workflow, "id", 1, options)).await.unwrap();
}

#[test]
fn bad_names_in_a_definition_are_build_errors() {
    let mut names = bad(NAME_BYTES_MAX);
    names.push("a/b".into());
    for name in names {
        let refusals: [Result<(), BuildErrors>; 4] = [
            Workflow::builder(&name).then("inc", inc).build().map(drop),
            Workflow::builder("w").then(&name, inc).build().map(drop),
            Workflow::builder_for::<u32>("w").wait_for_signal::<u32>("wait", &name).build().map(drop),
            Workflow::builder_for::<u32>("w").delay(&name, std::time::Duration::ZERO).build().map(drop),
        ];
        for (way, refusal) in refusals.into_iter().enumerate() {
            assert!(refusal.is_err(), "way {way}: {:?}", name.get(..20).unwrap_or(&name));
        }
    }
}
