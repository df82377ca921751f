//! What every log must do: run against the real one on each server version, and against the one of simulations.
//!
//! Panics at the first broken promise, naming it.

use super::{Delivery, EventLog, Follower, Hint, Logged, Published};
use crate::{
    event::{Attributes, Event, Kind, Version},
    hash::ContentHash,
    names::NodeName,
    path::MediaPath,
    time::Timestamp,
};
use bytes::Bytes;
use futures_util::future::{join, join_all, try_join_all};
use std::{collections::BTreeSet, future::Future, time::Duration};

/// Whatever takes longer is stuck.
const SOON: Duration = Duration::from_secs(10);
/// An unacknowledged event comes again after 30 s at the latest.
const REDELIVERED: Duration = Duration::from_secs(40);

/// Runs everything. `make`: a fresh, empty log that keeps so many events of each path (`None`: all); logs made for one suite share nothing.
/// `inject`: stores any bytes on a subject of a log.
pub async fn suite<L: EventLog>(
    make: impl AsyncFn(Option<u64>) -> L,
    inject: impl AsyncFn(&L, String, Bytes),
) {
    compare_and_set(&make(None).await).await;
    same_event_twice(&make(None).await).await;
    lost_race_for_one_path(&make(None).await).await;
    many_paths_at_once(&make(None).await).await;
    last_events(&make(None).await).await;
    history_of_a_path(&make(None).await).await;
    gaps(&make(Some(1)).await).await;
    odd_names(&make(None).await).await;
    hints(&make(None).await).await;
    let log = make(None).await;
    poison(&log, |subject, payload| inject(&log, subject, payload)).await;
    // Waits for the acknowledgement wait of a real broker, so the other runs meanwhile.
    join(following(&make(None).await), unacknowledged(&make(None).await)).await;
}

/// An addition of these bytes, for tests.
pub fn event(path: &str, content: &[u8], replaces: Version) -> Event {
    event_at(path.parse().expect("a good path"), content, replaces)
}

fn event_at(path: MediaPath, content: &[u8], replaces: Version) -> Event {
    Event {
        path,
        sha256: ContentHash::of(content),
        added: Some(Attributes {
            size: content.len() as u64,
            mtime: Timestamp::from_nanos(1_700_000_000_000_000_000),
            mode: 0o644,
        }),
        node: node("writer"),
        replaces,
        detected: Timestamp::from_nanos(1_700_000_000_500_000_000),
        was: None,
    }
}

fn removal(path: &str, content: &[u8], replaces: Version) -> Event {
    Event { added: None, ..event(path, content, replaces) }
}

fn node(name: &str) -> NodeName {
    name.parse().expect("a good name")
}

async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, act).await.unwrap_or_else(|_| panic!("{what} took over {SOON:?}"))
}

async fn stored<L: EventLog>(log: &L, event: &Event) -> Version {
    match soon("publish", log.publish(event)).await.expect("publish") {
        Published::Stored(version) => version,
        Published::Refused => panic!("{event:?} was refused"),
    }
}

async fn refused<L: EventLog>(log: &L, event: &Event, why: &str) {
    assert_eq!(soon("publish", log.publish(event)).await.expect("publish"), Published::Refused, "{why}");
}

fn is(logged: &Logged, version: Version, event: &Event) {
    assert_eq!(logged.version, version);
    assert_eq!(logged.event.as_ref().expect("an event"), event);
}

async fn compare_and_set<L: EventLog>(log: &L) {
    let empty = log.state().await.expect("the state of an empty log");
    assert_eq!((empty.first, empty.last, empty.history), (Version::ZERO, Version::ZERO, None));

    let one = stored(log, &event("a", b"1", Version::ZERO)).await;
    refused(log, &event("a", b"2", Version::ZERO), "the path has an event").await;
    refused(log, &event("b", b"2", one), "the path has none").await;
    let two = stored(log, &event("a", b"2", one)).await;
    refused(log, &event("a", b"3", one), "the path has a newer one").await;
    let gone = stored(log, &removal("a", b"2", two)).await;
    assert!(one < two && two < gone);
    // The same bytes as at first, within any duplicate window.
    let again = stored(log, &event("a", b"1", gone)).await;

    let state = log.state().await.expect("the state");
    assert_eq!((state.first, state.last), (one, again));
    assert_eq!(state.created, empty.created);
    let last = log.last(&event("a", b"", gone).path).await.expect("a read").expect("the last event");
    is(&last, again, &event("a", b"1", gone));
    assert!(state.now.is_none_or(|now| now >= last.time), "the broker's clock goes forward");
}

async fn same_event_twice<L: EventLog>(log: &L) {
    for replaces in [Version::ZERO, Version::new(1), Version::new(2)] {
        let event = event("a", b"same", replaces);
        let version = stored(log, &event).await;
        assert_eq!(stored(log, &event).await, version, "the same event is stored once");
        let last = log.state().await.expect("the state").last;
        assert_eq!(last, version, "the same event is stored once");
    }
}

async fn lost_race_for_one_path<L: EventLog>(log: &L) {
    let events: Vec<Event> =
        (0..200).map(|n| event("one", format!("{n}").as_bytes(), Version::ZERO)).collect();
    let results = soon("200 publishes", join_all(events.iter().map(|event| log.publish(event)))).await;
    let results: Vec<Published> = results.into_iter().map(|r| r.expect("publish")).collect();
    let won: Vec<usize> = (0..200).filter(|&n| results[n] != Published::Refused).collect();
    assert_eq!(won.len(), 1, "one of 200 wins");
    let last = log.last(&events[0].path).await.expect("a read").expect("an event");
    assert_eq!(results[won[0]], Published::Stored(last.version));
    is(&last, last.version, &events[won[0]]);
}

async fn many_paths_at_once<L: EventLog>(log: &L) {
    let mut events: Vec<Event> =
        (0..1000).map(|n| event(&format!("d{}/f{n}", n % 10), b"1", Version::ZERO)).collect();
    let first = all_at_once(log, &events).await;
    assert!(first.iter().all(Option::is_some), "all of them are new");

    // Losers among many spoil nobody else.
    for (event, version) in events.iter_mut().zip(&first) {
        event.replaces = version.expect("checked above");
        event.sha256 = ContentHash::of(b"2");
    }
    events[300].replaces = Version::ZERO;
    events[600].replaces = events[599].replaces;
    events.push(Event { sha256: ContentHash::of(b"3"), ..events[900].clone() });
    let second = all_at_once(log, &events).await;
    let refused: Vec<usize> = (0..=1000).filter(|&n| second[n].is_none()).collect();
    assert!(refused == [300, 600, 900] || refused == [300, 600, 1000], "{refused:?}");

    let stored: BTreeSet<Version> = first.into_iter().chain(second).flatten().collect();
    assert_eq!(stored.len(), 1998, "each event has a version of its own");
    let (mut from, mut seen) = (Version::ZERO, Vec::new());
    loop {
        let page = soon("a page", log.read(from, 500)).await.expect("a page");
        assert!(page.len() <= 500);
        let Some(last) = page.last() else { break };
        from = last.version.next();
        seen.extend(page.iter().map(|logged| logged.version));
    }
    assert_eq!(seen, stored.into_iter().collect::<Vec<_>>(), "every event, in order");
}

/// Publishes all together, and checks that each stands where its answer says.
async fn all_at_once<L: EventLog>(log: &L, events: &[Event]) -> Vec<Option<Version>> {
    let publishes = try_join_all(events.iter().map(|event| log.publish(event)));
    let published = soon("many publishes", publishes).await.expect("publish");
    let paths: Vec<MediaPath> = events.iter().map(|event| event.path.clone()).collect();
    let lasts = soon("many look-ups", log.lasts(&paths)).await.expect("a read");
    let placed = |(n, published): (usize, Published)| match published {
        Published::Refused => None,
        Published::Stored(version) => {
            is(lasts[n].as_ref().expect("an event"), version, &events[n]);
            Some(version)
        }
    };
    published.into_iter().enumerate().map(placed).collect()
}

async fn last_events<L: EventLog>(log: &L) {
    let (a, b) = (event("a", b"1", Version::ZERO), event("b", b"1", Version::ZERO));
    let none = event("none", b"", Version::ZERO).path;
    let below = event("a/below", b"", Version::ZERO).path;
    let (va, vb) = (stored(log, &a).await, stored(log, &b).await);
    let asked = [b.path.clone(), none.clone(), a.path.clone(), below, b.path.clone()];
    let lasts = log.lasts(&asked).await.expect("a read");
    assert_eq!(lasts.len(), 5);
    is(lasts[0].as_ref().expect("b"), vb, &b);
    is(lasts[2].as_ref().expect("a"), va, &a);
    is(lasts[4].as_ref().expect("b, asked twice"), vb, &b);
    assert!(lasts[1].is_none() && lasts[3].is_none());
    assert!(log.lasts(&[]).await.expect("nothing asked").is_empty());
    assert!(log.last(&none).await.expect("a read").is_none());
}

async fn history_of_a_path<L: EventLog>(log: &L) {
    let (mut replaces, mut written) = (Version::ZERO, Vec::new());
    for content in [b"1", b"2", b"3"] {
        let event = event("dir/a", content, replaces);
        replaces = stored(log, &event).await;
        written.push((replaces, event));
        stored(log, &event_at(format!("dir/{replaces}").parse().expect("a path"), b"", Version::ZERO)).await;
    }
    let (mut from, path) = (Version::ZERO, &written[0].1.path);
    for (version, event) in &written {
        let next = log.next_of(path, from).await.expect("a read").expect("an event");
        is(&next, *version, event);
        is(&log.at(*version).await.expect("a read").expect("an event"), *version, event);
        from = next.version.next();
    }
    assert!(log.next_of(path, from).await.expect("a read").is_none());
    let beyond = Version::new(log.state().await.expect("the state").last.get() + 1);
    for nowhere in [Version::ZERO, beyond] {
        assert!(log.at(nowhere).await.expect("a read").is_none(), "nothing at {nowhere}");
    }
    assert!(log.read(beyond, 10).await.expect("a page").is_empty());
    assert!(log.read(Version::ZERO, 0).await.expect("no page").is_empty());
}

/// `log` keeps one event of each path.
async fn gaps<L: EventLog>(log: &L) {
    let mut last = Version::ZERO;
    let mut kept = Vec::new();
    for round in 0..50 {
        last = stored(log, &event("often", format!("{round}").as_bytes(), last)).await;
        if round % 10 == 9 {
            kept.push(stored(log, &event(&format!("once{round}"), b"", Version::ZERO)).await);
        }
    }
    kept.insert(4, last);
    let state = log.state().await.expect("the state");
    assert_eq!((state.history, state.first, Some(&state.last)), (Some(1), kept[0], kept.last()));
    assert!(log.at(Version::new(1)).await.expect("a read").is_none(), "no longer kept");
    let versions = |page: Vec<Logged>| page.iter().map(|logged| logged.version).collect::<Vec<_>>();
    assert_eq!(versions(log.read(Version::ZERO, 500).await.expect("a page")), kept);
    assert_eq!(versions(log.read(kept[1], 3).await.expect("a page")), kept[1..4]);
    assert_eq!(versions(log.read(kept[1].next(), 2).await.expect("a page")), kept[2..4]);
}

async fn odd_names<L: EventLog>(log: &L) {
    let long: Vec<u8> = vec![vec![b'd'; 250]; 16].join(&b'/');
    let names: [&[u8]; 9] = [
        b"a b/'\"%*>.",
        b"new\nline\ttab\r",
        b"\xff\xfe/\xc3\x28",
        "\u{1f600}/e\u{301}".as_bytes(),
        b"...",
        b"%41",
        &[b'x'; 255],
        &long,
        "\u{a0}\u{85}\u{2028}".as_bytes(),
    ];
    let mut events = Vec::new();
    for name in names {
        let event = event_at(MediaPath::new(name).expect("a good path"), name, Version::ZERO);
        events.push((stored(log, &event).await, event));
    }
    let paths: Vec<MediaPath> = events.iter().map(|(_, event)| event.path.clone()).collect();
    let lasts = log.lasts(&paths).await.expect("a read");
    let page = log.read(Version::ZERO, 500).await.expect("a page");
    for (n, (version, event)) in events.iter().enumerate() {
        is(lasts[n].as_ref().expect("an event"), *version, event);
        is(&page[n], *version, event);
        is(&log.last(&event.path).await.expect("a read").expect("an event"), *version, event);
        is(
            &log.next_of(&event.path, Version::ZERO).await.expect("a read").expect("an event"),
            *version,
            event,
        );
    }
}

async fn poison<L: EventLog>(log: &L, inject: impl AsyncFn(String, Bytes)) {
    let good = event("good", b"1", Version::ZERO);
    let path = event("bad", b"", Version::ZERO).path;
    stored(log, &good).await;
    inject(log.subjects().of(&path), Bytes::from_static(b"{\"v\":99}")).await;
    let last = log.last(&path).await.expect("a read").expect("a message");
    assert!(last.event.is_err() && &last.payload[..] == b"{\"v\":99}");
    assert_ne!(last.id(log.subjects()), good.identity(log.subjects()));
    let mut follower = log.follow(&node("n")).await.expect("a follower");
    let delivered = [soon("an event", follower.next()).await, soon("an event", follower.next()).await];
    let bad = delivered.iter().map(|d| d.as_ref().expect("a delivery").logged()).find(|l| l.event.is_err());
    assert_eq!(bad.expect("what is no event is delivered too").version, last.version);
    // The path is not lost: who replaces what stands there may.
    stored(log, &event("bad", b"mended", last.version)).await;
}

async fn delivered<F: Follower>(follower: &mut F) -> F::Delivery {
    soon("a delivery", follower.next()).await.expect("a delivery")
}

async fn following<L: EventLog>(log: &L) {
    let a = stored(log, &event("a", b"1", Version::ZERO)).await;
    let b = stored(log, &event("b", b"1", Version::ZERO)).await;
    let a = stored(log, &event("a", b"2", a)).await;
    let mut follower = log.follow(&node("n-1")).await.expect("a follower");
    for version in [b, a] {
        let delivery = delivered(&mut follower).await;
        assert_eq!(delivery.logged().version, version, "it begins with the newest of each path");
        delivery.progress().await;
        delivery.acknowledge().await;
    }
    let waiting = follower.next();
    let writing = async {
        let removed = stored(log, &removal("a", b"2", a)).await;
        stored(log, &event("c", b"1", Version::ZERO)).await;
        removed
    };
    let (delivery, removed) = join(waiting, writing).await;
    let delivery = delivery.expect("a delivery");
    assert_eq!(delivery.logged().version, removed, "it goes on live");
    assert_eq!(delivery.logged().event.as_ref().expect("an event").kind(), Kind::Removed);
    delivery.acknowledge().await;
    let c = delivered(&mut follower).await;
    c.acknowledge().await;
    let last = c.logged().version;
    let all = async {
        while follower.state().await.expect("a state").acknowledged < last {
            tokio::task::yield_now().await;
        }
        follower.state().await.expect("a state")
    };
    let state = soon("the acknowledgements", all).await;
    assert_eq!((state.acknowledged, state.delivered, state.pending), (last, last, 0));
    drop(follower);

    let d = stored(log, &event("d", b"1", Version::ZERO)).await;
    let mut again = log.follow(&node("n-1")).await.expect("the same consumer");
    let delivery = delivered(&mut again).await;
    assert_eq!(delivery.logged().version, d, "an existing consumer goes on where it was");
    delivery.acknowledge().await;
    let mut other = log.follow(&node("n-2")).await.expect("another consumer");
    let versions = [b, removed, last, d];
    for version in versions {
        assert_eq!(delivered(&mut other).await.logged().version, version, "each node has its own");
    }
}

async fn hints<L: EventLog>(log: &L) {
    stored(log, &event("before", b"1", Version::ZERO)).await;
    let mut hints = log.hints().await.expect("hints");
    // A subscription stands once something that was published after it is heard of.
    let mut first = 0;
    let heard = async {
        loop {
            first = stored(log, &event("first", &[first as u8], Version::new(first))).await.get();
            let hint = tokio::time::timeout(Duration::from_millis(200), hints.next()).await;
            if let Ok(hint) = hint {
                break hint.expect("a hint");
            }
        }
    };
    assert_eq!(soon("the first hint", heard).await.path, "first".parse().expect("a good path"));
    let version = stored(log, &event("a/Ä b.c", b"1", Version::ZERO)).await;
    stored(log, &removal("a/Ä b.c", b"1", version)).await;
    for replaces in [Version::ZERO, version] {
        let expected = Hint { path: "a/Ä b.c".parse().expect("a good path"), replaces };
        loop {
            let hint = soon("a hint", hints.next()).await.expect("a hint");
            if hint.path == expected.path {
                assert_eq!(hint, expected);
                break;
            }
        }
    }
}

async fn unacknowledged<L: EventLog>(log: &L) {
    for path in ["a", "b", "c"] {
        stored(log, &event(path, b"1", Version::ZERO)).await;
    }
    let mut follower = log.follow(&node("n")).await.expect("a follower");
    let mut open = Vec::new();
    for n in 0..3 {
        let delivery = delivered(&mut follower).await;
        if n == 1 {
            delivery.acknowledge().await;
        } else {
            open.push(delivery.logged().version);
        }
    }
    drop(follower);
    let mut follower = log.follow(&node("n")).await.expect("the same consumer");
    let mut again = Vec::new();
    while again.len() < 2 {
        let delivery = tokio::time::timeout(REDELIVERED, follower.next()).await;
        let delivery = delivery.expect("what was not acknowledged comes again").expect("a delivery");
        delivery.acknowledge().await;
        again.push(delivery.logged().version);
    }
    again.sort();
    assert_eq!(again, open);
}
