//! The addresses on which the processes answer HTTP: free, held by the process itself, or taken by somebody else. Nothing is bound to find out: the kernel lists
//! who listens.

use super::{finding::Finding, processes::Process};
use common::{http::default_address, nodes::Role, settings::Listen};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
};

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// A socket that listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub uid: u32,
    pub inode: u64,
}

/// Who has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    Nobody,
    /// A process of this node.
    Own(Role),
    /// A process of this user that is none of this node's.
    Other(u32),
}

/// What is there of the address that a process would take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub address: SocketAddr,
    /// It was asked for: a process that cannot have it does not run.
    pub asked: bool,
    pub holder: Holder,
    /// Why no process of this machine can have its IP address, if none can.
    pub not_ours: Option<String>,
}

/// Its name, and the process that it is about.
pub type Check = (&'static str, Role);

/// The checks that there are of addresses: one, where one was named for whichever process.
pub fn checks(listen: Listen) -> &'static [Check] {
    match listen {
        Listen::At(_) => &[("http", Role::Watcher)],
        Listen::Default | Listen::Off => {
            &[("watcher_http", Role::Watcher), ("replicator_http", Role::Replicator)]
        }
    }
}

/// `None`: HTTP is off.
pub fn look(role: Role, listen: Listen, running: &[Process]) -> Option<Facts> {
    let (address, asked) = match listen {
        Listen::Off => return None,
        Listen::Default => (default_address(role), false),
        Listen::At(address) => (address, true),
    };
    let listeners = ["tcp", "tcp6"].iter().flat_map(|name| {
        let text = fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
        text.lines().filter_map(parse).collect::<Vec<_>>()
    });
    let holder = listeners.into_iter().find(|listener| covers(listener.address, address));
    // A port of the kernel's choice, given back at once.
    let not_ours = TcpListener::bind((address.ip(), 0)).err().map(|error| error.to_string());
    let holder = holder.map_or(Holder::Nobody, |listener| holder_of(&listener, running));
    Some(Facts { address, asked, holder, not_ours })
}

fn covers(listens: SocketAddr, wanted: SocketAddr) -> bool {
    let everywhere = listens.ip().is_unspecified() || wanted.ip().is_unspecified();
    listens.port() == wanted.port() && (everywhere || listens.ip() == wanted.ip())
}

fn holder_of(listener: &Listener, running: &[Process]) -> Holder {
    let socket = format!("socket:[{}]", listener.inode);
    let holds = |process: &&Process| match fs::read_dir(format!("/proc/{}/fd", process.pid)) {
        Ok(open) => open
            .flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())),
        // Another user's, whose files are not shown.
        Err(_) => process.uid == listener.uid,
    };
    match running.iter().find(holds).and_then(|process| process.role) {
        Some(role) => Holder::Own(role),
        None => Holder::Other(listener.uid),
    }
}

/// A line of `/proc/net/tcp` or `tcp6`.
fn parse(line: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let (uid, inode) = (fields.nth(3)?, fields.nth(1)?);
    if state != LISTENS {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each in the order of this machine.
    let words = (0..ip.len() / 8).map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(Listener { address: (ip, port).into(), uid: uid.parse().ok()?, inode: inode.parse().ok()? })
}

pub fn judge((check, role): Check, facts: Option<&Facts>) -> Finding {
    let Some(Facts { address, asked, holder, not_ours }) = facts else {
        return Finding::ok(check, "off");
    };
    if let Some(error) = not_ours {
        return Finding::wrong(check, format!("{address} cannot be had: {error}"))
            .why("a process that cannot have the address that was asked for does not run")
            .cure("--http with an address of this machine, or --http off");
    }
    match (holder, asked) {
        (Holder::Nobody, _) => Finding::ok(check, format!("{address} is free")),
        (Holder::Own(role), _) => Finding::ok(check, format!("{address} is held by the {role} of this node")),
        (Holder::Other(uid), true) => {
            Finding::wrong(check, format!("{address} is taken by a process of user {uid}"))
                .why("a process that cannot have the address that was asked for does not run")
                .cure(format!("ss -ltnp 'sport = :{}'  # shows who has it", address.port()))
        }
        (Holder::Other(uid), false) => {
            Finding::note(check, format!("{address} is taken by a process of user {uid}"))
                .why(format!("the {role} does without HTTP then: no health, no metrics"))
                .cure("give it another address by --http")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict::{Note, Ok, Wrong};

    #[test]
    fn the_kernels_list_is_read() {
        let line = "   0: 0100007F:1CFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  33 0 4711 1 0000 100";
        let at = |address: &str, inode| {
            Some(Listener { address: address.parse().expect("an address"), uid: 33, inode })
        };
        assert_eq!(parse(line), at("127.0.0.1:7420", 4711));
        assert_eq!(parse(&line.replace(" 0A ", " 01 ")), None);
        let six = line.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(parse(&six), at("[::1]:7420", 4711));
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn an_address_is_also_taken_by_who_listens_everywhere() {
        for (listens, wanted, taken) in [
            ("127.0.0.1:7420", "127.0.0.1:7420", true),
            ("0.0.0.0:7420", "127.0.0.1:7420", true),
            ("[::]:7420", "127.0.0.1:7420", true),
            ("127.0.0.1:7420", "0.0.0.0:7420", true),
            ("127.0.0.2:7420", "127.0.0.1:7420", false),
            ("127.0.0.1:7421", "127.0.0.1:7420", false),
        ] {
            let at = |text: &str| text.parse().expect("an address");
            assert_eq!(covers(at(listens), at(wanted)), taken, "{listens} {wanted}");
        }
    }

    #[test]
    fn who_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let uid = rustix::process::geteuid().as_raw();
        let own = |role| Process { role, pid: std::process::id(), uid, gives_away: false, descriptors: None };
        let found = |running: &[Process]| look(Role::Watcher, Listen::At(address), running).map(|f| f.holder);
        assert_eq!(found(&[own(Some(Role::Replicator))]), Some(Holder::Own(Role::Replicator)));
        assert_eq!(found(&[]), Some(Holder::Other(uid)));
        drop(listener);
        assert_eq!(found(&[]), Some(Holder::Nobody));
        assert_eq!(look(Role::Watcher, Listen::Off, &[]), None);
    }

    #[test]
    fn a_default_that_is_taken_is_done_without() {
        let address = "127.0.0.1:7420".parse().expect("an address");
        for (asked, holder, not_ours, verdict) in [
            (false, Holder::Nobody, None, Ok),
            (true, Holder::Nobody, None, Ok),
            (true, Holder::Own(Role::Watcher), None, Ok),
            (false, Holder::Other(33), None, Note),
            (true, Holder::Other(33), None, Wrong),
            (true, Holder::Nobody, Some("not available".into()), Wrong),
        ] {
            let facts = Facts { address, asked, holder, not_ours };
            assert_eq!(judge(("http", Role::Watcher), Some(&facts)).verdict, verdict, "{facts:?}");
        }
        assert_eq!(judge(("http", Role::Watcher), None).verdict, Ok);
    }
}
