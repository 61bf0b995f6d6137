//! Accounts: the connections, streams and unread answers of one address or identity.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::AtomicUsize},
};

/// Owner of an account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AccountKey {
    /// An IPv4 address, or the first 64 bits of an IPv6 one: a network of that size has one owner.
    Address(IpAddr),
    /// Name that a certificate proves.
    Identity(Arc<str>),
}

impl AccountKey {
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

/// Counts of one owner.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) connections: AtomicUsize,
    pub(super) streams: AtomicUsize,
    /// Bytes of unread answers. `UnreadBuffers` counts those of all owners.
    pub(super) unread: AtomicUsize,
    /// Number of answers that were read so far; may wrap around.
    pub(super) taken: AtomicUsize,
}

/// An account and its owner.
#[derive(Debug)]
pub(super) struct AccountRef {
    pub(super) key: AccountKey,
    pub(super) account: Arc<Account>,
}
