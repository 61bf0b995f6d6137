//! Hosts in network namespaces, between which packets can be lost in one direction or in both.
//!
//! Each host has the link-layer addresses of all others in a table of its own. A host whose entry for another one is wrong sends
//! frames that no host accepts: packets vanish without an error on either side, as behind a broken switch.

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Environment variable that permits skipping the tests where no namespace can be made. Without it they fail.
const SKIP_VARIABLE: &str = "CALLBOARD_TEST_WITHOUT_NETWORKS";
/// Last byte of the address of the test itself, which reaches all hosts.
const OWN_HOST: usize = 254;

/// Hosts on one bridge. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// First three bytes of all addresses, of the range for benchmarks (RFC 2544).
    subnet: String,
    hosts: usize,
}

impl Network {
    /// Makes this number of hosts. Returns `None` if the environment permits skipping the test.
    pub fn with_hosts(hosts: usize) -> Option<Self> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let subnet = (std::process::id() + 97 * number) % 512;
        let network = Self {
            name: format!("cb{}x{number}", std::process::id()),
            subnet: format!("198.{}.{}", 18 + subnet / 256, subnet % 256),
            hosts,
        };
        if let Err(error) = network.set_up() {
            let known = env::var(SKIP_VARIABLE).as_deref() == Ok("1");
            assert!(
                known,
                "no network can be made: {error}: be root, or set {SKIP_VARIABLE}=1 to leave out partitions"
            );
            eprintln!("LEFT OUT, for {SKIP_VARIABLE} is set: a network of {hosts} hosts");
            return None;
        }
        Some(network)
    }

    fn set_up(&self) -> Result<(), String> {
        let Self { name, .. } = self;
        let own = format!("{}/24", self.address(OWN_HOST));
        ip(&["link", "add", name, "address", &link_address(OWN_HOST), "type", "bridge"])?;
        ip(&["address", "add", &own, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        for host in 0..self.hosts {
            let (namespace, port) = (self.namespace(host), format!("{name}p{host}"));
            ip(&["netns", "add", &namespace])?;
            let peer = ["peer", "name", "eth0", "address", &link_address(host), "netns", &namespace];
            ip(&[&["link", "add", &port, "type", "veth"], &peer[..]].concat())?;
            ip(&["link", "set", &port, "master", name, "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "address", "add", &format!("{}/24", self.address(host)), "dev", "eth0"])?;
        }
        for from in 0..self.hosts {
            for to in (0..self.hosts).filter(|to| *to != from) {
                self.set_link_address(from, to, &link_address(to))?;
            }
        }
        Ok(())
    }

    /// Name of the namespace of a host.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}h{host}", self.name)
    }

    /// Address of a host.
    pub fn address(&self, host: usize) -> String {
        format!("{}.{}", self.subnet, if host == OWN_HOST { host } else { host + 1 })
    }

    /// Loses all packets from one host to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.set_link_address(from, to, "02:00:00:00:00:00").unwrap();
    }

    /// Delivers packets from one host to another again.
    pub fn join(&self, from: usize, to: usize) {
        self.set_link_address(from, to, &link_address(to)).unwrap();
    }

    fn set_link_address(&self, from: usize, to: usize, address: &str) -> Result<(), String> {
        let entry = ["neigh", "replace", &self.address(to), "lladdr", address, "dev", "eth0", "nud", "permanent"];
        ip(&[&["-n", &self.namespace(from)], &entry[..]].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // Removing a namespace removes its half of the link, and so the other one.
            let _ = ip(&["netns", "delete", &self.namespace(host)]);
        }
        let _ = ip(&["link", "delete", &self.name]);
    }
}

fn link_address(host: usize) -> String {
    format!("02:cb:00:00:00:{host:02x}")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
