//! Limits of TCP connections. One address can use at most half of them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::metrics::RejectReason;

/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of connections of one address.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 128;

/// Number of open connections by address.
#[derive(Debug, Default)]
pub(super) struct OpenConnections(Mutex<HashMap<IpAddr, usize>>);

impl OpenConnections {
    /// Counts a connection until the guard is dropped.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<OpenConnection, RejectReason> {
        let mut open = self.0.lock();
        if open.values().sum::<usize>() >= MAX_CONNECTIONS {
            return Err(RejectReason::All);
        }
        let of_address = open.entry(address).or_default();
        if *of_address >= MAX_CONNECTIONS_PER_ADDRESS {
            return Err(RejectReason::Address);
        }
        *of_address += 1;
        Ok(OpenConnection { all: Arc::clone(self), address })
    }
}

/// Guard of a counted connection.
#[derive(Debug)]
pub(super) struct OpenConnection {
    all: Arc<OpenConnections>,
    address: IpAddr,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.all.0.lock();
        if let Some(of_address) = open.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_with_many_connections_leaves_some_to_others() {
        let open = Arc::new(OpenConnections::default());
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut all: Vec<_> = std::iter::from_fn(|| open.admit(one).ok()).collect();
        assert_eq!(all.len(), MAX_CONNECTIONS_PER_ADDRESS);
        assert_eq!(open.admit(one).unwrap_err(), RejectReason::Address);
        all.extend(std::iter::from_fn(|| open.admit(two).ok()));
        assert_eq!((all.len(), open.admit(three).unwrap_err()), (MAX_CONNECTIONS, RejectReason::All));
        all.pop();
        assert!(open.admit(three).is_ok());
        all.clear();
        assert!(open.0.lock().is_empty());
    }
}
