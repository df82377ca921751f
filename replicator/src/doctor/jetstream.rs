//! What JetStream gives this mirror: the account's limits against what is used and what the tree needs, and the settings of log, blobs and node records.

use super::{
    broker::{Account, AccountLimits, Facts, Stream, StreamFacts, Tier, Which},
    finding::Finding,
};
use common::broker::BrokerError;
use indicatif::HumanBytes;

/// JetStream is not enabled for the account.
const OFF: u64 = 10039;
/// The largest message of each stream: a long event, a chunk, a list of hashes.
const EVENT: i64 = 16 << 10;
const CHUNK: i64 = 260 << 10;
const RECORD: i64 = 128 << 10;

/// What the tree of this node still lacks on the broker, in bytes: some of it may be there under the same content, which is not looked at.
fn lacking(facts: &Facts, tree: u64) -> u64 {
    let stored = |stream: &Stream| match &stream.there {
        Ok(Some(there)) if stream.which == Which::Blobs => there.state.bytes,
        _ => 0,
    };
    if facts.store.is_some() {
        return 0;
    }
    tree.saturating_sub(facts.streams.iter().map(stored).sum())
}

/// The share that our streams count against.
fn share(account: &Account, replicas: u64) -> Tier {
    let whole = || Tier {
        storage: account.storage,
        streams: account.streams,
        consumers: account.consumers,
        limits: account.limits,
    };
    account.tiers.get(&format!("R{replicas}")).cloned().unwrap_or_else(whole)
}

/// `tree`: bytes of this node's files. `replicas`: copies with which streams are made.
pub fn judge_account(facts: &Facts, tree: u64, replicas: u64) -> Finding {
    let account = match &facts.account {
        Ok(account) => account,
        Err(error) => return no_account(facts, error),
    };
    let Tier { storage, streams, consumers, limits } = share(account, replicas);
    let missing = facts.streams.iter().filter(|stream| matches!(stream.there, Ok(None))).count() as u64;
    let raise = |limit: &str| format!("raise {limit} of the account in the server's configuration");
    let over = |limit: i64, used: u64, more: u64| {
        u64::try_from(limit).is_ok_and(|most| most > 0 && used + more > most)
    };
    if over(limits.max_streams, streams, missing) {
        return Finding::wrong(
            "jetstream",
            format!("{streams} of {} streams, {missing} more are needed", limits.max_streams),
        )
        .why("log, blobs and node records cannot be made")
        .cure(raise("max_streams"));
    }
    if over(limits.max_consumers, consumers, u64::from(!facts.consumer)) {
        return Finding::wrong(
            "jetstream",
            format!("{consumers} of {} consumers are there", limits.max_consumers),
        )
        .why("the replicator needs one more to follow the log")
        .cure(raise("max_consumers"));
    }
    if missing > 0 && limits.max_bytes_required {
        return Finding::wrong("jetstream", "the account wants streams to say how large they become")
            .why("a log that forgets its oldest events loses files, so that ours do not say it")
            .cure("take max_bytes_required from the account");
    }
    judge_storage(storage, limits, lacking(facts, tree).saturating_mul(replicas))
}

fn judge_storage(used: u64, limits: AccountLimits, need: u64) -> Finding {
    let Ok(most) = u64::try_from(limits.max_storage) else {
        return Finding::ok("jetstream", format!("{} are stored, without a limit", HumanBytes(used)));
    };
    let left = most.saturating_sub(used);
    let found = format!("{} of {} are used", HumanBytes(used), HumanBytes(most));
    let cure = "raise max_file (max_store) of the account in the server's configuration";
    if left < need || left == 0 {
        return Finding::wrong("jetstream", format!("{found}, this tree may need {} more", HumanBytes(need)))
            .why("the watcher waits when it is full; what waits is on this node only")
            .cure(cure);
    }
    if left < most / 10 {
        return Finding::note("jetstream", found).why("the watcher waits when it is full").cure(cure);
    }
    Finding::ok("jetstream", found)
}

fn no_account(facts: &Facts, error: &BrokerError) -> Finding {
    const ON: &str =
        "jetstream { store_dir: \"/var/lib/nats\" }  # in nats-server's file, and for the account";
    let answers = facts.streams.iter().any(|stream| stream.there.is_ok());
    match error {
        BrokerError::Refused { code: OFF, .. } => Finding::wrong("jetstream", "not enabled for this account")
            .why("log and blobs are kept in it")
            .cure(ON),
        _ if answers => Finding::note("jetstream", error.to_string())
            .why("this user may not ask for the limits of its account: they were not checked"),
        _ => Finding::wrong("jetstream", error.to_string()).why("log and blobs are kept in it").cure(ON),
    }
}

/// What is not as it must be: what it is, and the flag of `nats stream edit` that cures it.
fn complaints(
    which: Which,
    stream: &StreamFacts,
    facts: &Facts,
    tree: u64,
) -> Vec<(String, Option<&'static str>)> {
    let StreamFacts { config, state, .. } = stream;
    let mut found: Vec<(String, Option<&'static str>)> = Vec::new();
    let mut add = |text: String, flag| found.push((text, flag));
    if config.storage != "file" {
        add(format!("kept in {}, gone with the server", config.storage), None);
    }
    if config.retention != "limits" {
        add(format!("retention is {}, which drops what was read", config.retention), None);
    }
    if config.sealed {
        add("sealed: it takes nothing any more".into(), None);
    }
    if !config.allow_direct {
        add("direct get is off".into(), Some("--allow-direct"));
    }
    let least = match which {
        Which::Log => EVENT,
        Which::Blobs => CHUNK,
        Which::Nodes => RECORD,
    };
    if config.max_msg_size > 0 && config.max_msg_size < least {
        add(format!("messages of over {} B are refused", config.max_msg_size), Some("--max-msg-size=-1"));
    }
    if which == Which::Nodes {
        return found;
    }
    if config.max_age > 0 {
        add(format!("messages are dropped after {} s", config.max_age / 1_000_000_000), Some("--max-age=0"));
    }
    if config.max_msgs > 0 {
        add(format!("no more than {} messages are kept", config.max_msgs), Some("--max-msgs=-1"));
    }
    if let Ok(most @ 1..) = u64::try_from(config.max_bytes) {
        let (left, all) = (most.saturating_sub(state.bytes), HumanBytes(most));
        let need = if which == Which::Blobs { lacking(facts, tree) } else { 0 };
        if config.discard != "new" {
            add(format!("beyond {all} the oldest messages are dropped"), Some("--max-bytes=-1"));
        } else if left < need || left < most / 20 {
            add(format!("{} of {all} are left", HumanBytes(left)), Some("--max-bytes=-1"));
        }
    }
    if let Ok(most @ 1..) = u64::try_from(config.max_consumers)
        && which == Which::Log
        && !facts.consumer
        && state.consumer_count >= most
    {
        add(format!("all of its {most} consumers are taken"), Some("--max-consumers=-1"));
    }
    found
}

/// One of the streams. `known`: this node has followed the log before.
pub fn judge_stream(stream: &Stream, facts: &Facts, tree: u64, known: bool) -> Finding {
    let (check, why) = match stream.which {
        Which::Log => ("log", "the log has to keep the newest event of each path, or files are lost with it"),
        Which::Blobs => ("blobs", "a blob that is dropped can no longer be fetched by a node that lacks it"),
        Which::Nodes => ("nodes", "the nodes say here how they are, and ask each other for what they lack"),
    };
    let name = &stream.name;
    let there = match &stream.there {
        Ok(Some(there)) => there,
        Ok(None) if known => {
            return Finding::note(check, format!("{name} is gone"))
                .why("the processes make it anew, and store again what they hold")
                .cure("replicator status  # and the server's own log, for why");
        }
        Ok(None) => {
            return Finding::ok(check, format!("no {name} yet; the first process makes it"));
        }
        Err(error) => {
            return Finding::wrong(check, error.to_string())
                .why("no answer often means that this user has no right to ask")
                .cure(format!("permit this user to publish to $JS.API.STREAM.INFO.{name}"));
        }
    };
    let found = complaints(stream.which, there, facts, tree);
    if found.is_empty() {
        return Finding::ok(check, format!("{name}, {}", HumanBytes(there.state.bytes)));
    }
    let texts: Vec<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
    let flags: Vec<&str> = found.iter().filter_map(|(_, flag)| *flag).collect();
    let cure = match found.iter().all(|(_, flag)| flag.is_some()) {
        true => format!("nats stream edit {name} {}", flags.join(" ")),
        false => format!("nats stream rm {name}  # the processes make it again, and fill it"),
    };
    Finding::wrong(check, format!("{name}: {}", texts.join("; "))).why(why).cure(cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        broker::{Config, Contents},
        finding::Verdict::{self, Note, Ok, Wrong},
    };

    const MIB: u64 = 1 << 20;

    fn stream(which: Which, config: Config, bytes: u64) -> Stream {
        let state = Contents { bytes, consumer_count: 1 };
        let facts = StreamFacts { config, state, cluster: None };
        Stream { which, name: "S".into(), there: Result::Ok(Some(facts)) }
    }

    #[test]
    fn the_accounts_limits_are_held_against_what_is_needed() {
        let limits = AccountLimits::default();
        let mib = |mib: u64| i64::try_from(mib * MIB).expect("small");
        let cases: [(AccountLimits, u64, Verdict); 10] = [
            (limits, 1 << 50, Ok),
            (AccountLimits { max_storage: mib(100), ..limits }, 50 * MIB, Ok),
            (AccountLimits { max_storage: mib(100), ..limits }, 91 * MIB, Wrong),
            (AccountLimits { max_storage: mib(11), ..limits }, MIB, Note),
            (AccountLimits { max_storage: 0, ..limits }, 0, Wrong),
            (AccountLimits { max_streams: 2, ..limits }, 0, Wrong),
            (AccountLimits { max_streams: 3, ..limits }, 0, Ok),
            (AccountLimits { max_consumers: 1, ..limits }, 0, Wrong),
            (AccountLimits { max_consumers: 2, ..limits }, 0, Ok),
            (AccountLimits { max_bytes_required: true, ..limits }, 0, Wrong),
        ];
        for (limits, tree, verdict) in cases {
            let mut facts = Facts::of_a_test();
            let account =
                Account { storage: 10 * MIB, streams: 0, consumers: 1, limits, ..Account::default() };
            facts.account = Result::Ok(account.clone());
            let finding = judge_account(&facts, tree, 1);
            assert_eq!(finding.verdict, verdict, "{limits:?} {tree}: {finding}");
            // The same for the tier of three copies, each of which counts.
            let tier = Tier { storage: 10 * MIB, streams: 0, consumers: 1, limits };
            let tiers = [("R3".to_owned(), tier)].into();
            facts.account = Result::Ok(Account { tiers, ..Account::default() });
            let finding = judge_account(&facts, tree / 3, 3);
            assert_eq!(finding.verdict, verdict, "{limits:?} {tree}: {finding}");
        }
        // What is stored already is not needed again.
        let mut facts = Facts::of_a_test();
        let limits = AccountLimits { max_storage: mib(100), ..limits };
        facts.account = Result::Ok(Account { storage: 80 * MIB, limits, ..Account::default() });
        facts.streams[1] = stream(Which::Blobs, Config::default(), 80 * MIB);
        assert_eq!(judge_account(&facts, 90 * MIB, 1).verdict, Ok);
        assert_eq!(judge_account(&facts, 101 * MIB, 1).verdict, Wrong);
    }

    #[test]
    fn an_account_that_cannot_be_asked_is_wrong_only_if_nothing_answers() {
        let doing = || "asking".to_owned();
        let refused = |code| BrokerError::Refused { doing: doing(), code, reason: "no".into() };
        let timeout = BrokerError::Timeout { doing: doing(), waited: std::time::Duration::ZERO };
        for (error, answers, verdict) in [
            (refused(10039), true, Wrong),
            (timeout.clone(), true, Note),
            (timeout.clone(), false, Wrong),
            (BrokerError::Away { doing: doing(), reason: "nobody".into() }, false, Wrong),
        ] {
            let mut facts = Facts::of_a_test();
            facts.account = Err(error.clone());
            if !answers {
                facts.streams.iter_mut().for_each(|stream| stream.there = Err(timeout.clone()));
            }
            assert_eq!(judge_account(&facts, 0, 1).verdict, verdict, "{error} {answers}");
        }
    }

    #[test]
    fn settings_that_drop_or_refuse_messages_are_wrong() {
        let config = Config::default;
        let new = || Config { discard: "new".into(), ..config() };
        let cases: [(Config, [Verdict; 3], &str); 13] = [
            (config(), [Ok, Ok, Ok], ""),
            (Config { storage: "memory".into(), ..config() }, [Wrong; 3], "stream rm"),
            (Config { retention: "workqueue".into(), ..config() }, [Wrong; 3], "stream rm"),
            (Config { sealed: true, ..config() }, [Wrong; 3], "stream rm"),
            (Config { allow_direct: false, ..config() }, [Wrong; 3], "edit S --allow-direct"),
            (Config { max_age: 1_000_000_000, ..config() }, [Wrong, Wrong, Ok], "--max-age=0"),
            (Config { max_msgs: 9, ..config() }, [Wrong, Wrong, Ok], "--max-msgs=-1"),
            (Config { max_bytes: 1 << 40, ..config() }, [Wrong, Wrong, Ok], "--max-bytes=-1"),
            (Config { max_bytes: 1 << 40, ..new() }, [Ok; 3], ""),
            (Config { max_bytes: 1 << 24, ..new() }, [Ok, Wrong, Ok], "--max-bytes=-1"),
            (Config { max_bytes: 1 << 20, ..new() }, [Wrong, Wrong, Ok], "--max-bytes=-1"),
            (Config { max_msg_size: 100 << 10, ..config() }, [Ok, Wrong, Wrong], "--max-msg-size=-1"),
            (Config { max_consumers: 1, ..config() }, [Wrong, Ok, Ok], "--max-consumers=-1"),
        ];
        for (config, verdicts, cure) in cases {
            for (which, verdict) in [Which::Log, Which::Blobs, Which::Nodes].into_iter().zip(verdicts) {
                let mut facts = Facts::of_a_test();
                facts.streams[1] = stream(Which::Blobs, config.clone(), MIB);
                let finding = judge_stream(&stream(which, config.clone(), MIB), &facts, 100 * MIB, true);
                assert_eq!(finding.verdict, verdict, "{config:?} {which:?}: {finding}");
                assert!(
                    verdict == Ok || finding.cure.as_deref().is_some_and(|said| said.contains(cure)),
                    "{finding}"
                );
            }
        }
    }

    #[test]
    fn a_stream_that_is_not_there_is_news_only_to_who_knew_it() {
        let mut facts = Facts::of_a_test();
        for (known, verdict) in [(false, Ok), (true, Note)] {
            assert_eq!(judge_stream(&facts.streams[0], &facts, 0, known).verdict, verdict);
        }
        facts.streams[0].there = Err(BrokerError::Absent { doing: "asking".into() });
        assert_eq!(judge_stream(&facts.streams[0], &facts, 0, false).verdict, Wrong);
    }
}
