//! Settings of the engine that several replicas share through etcd.

use std::path::PathBuf;

use clap::Args;

use super::{
    error::ConfigError,
    key::{SettingKey, SettingOrigin},
    raw_settings::RawSettings,
    read, value,
};

/// Settings of etcd, and of this replica in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Members of etcd, as URLs.
    pub endpoints: Vec<String>,
    /// User of etcd, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// File of the authorities that sign etcd's certificates. `None` means those of the system.
    pub ca: Option<PathBuf>,
    /// Files of the certificate and the key that etcd is shown.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Name of the registry among those that share etcd.
    pub cluster: String,
    /// Name of this replica. `None` means the host name.
    pub replica: Option<String>,
}

impl EtcdConfig {
    /// Default of `cluster`.
    pub const DEFAULT_CLUSTER: &str = "default";

    /// Reads and validates the settings. `data_dir`: place of the setting of the directory, which excludes etcd.
    pub(super) fn resolve(
        layers: &[RawSettings],
        data_dir: Option<SettingOrigin>,
    ) -> Result<Option<Self>, ConfigError> {
        let endpoints = read(layers, SettingKey::Etcd, value::etcd_endpoints)?;
        let user = read(layers, SettingKey::EtcdUser, value::etcd_name)?;
        let password = read(layers, SettingKey::EtcdPasswordFile, value::path)?;
        let ca = read(layers, SettingKey::EtcdCa, value::path)?;
        let certificate = read(layers, SettingKey::EtcdCert, value::path)?;
        let key = read(layers, SettingKey::EtcdKey, value::path)?;
        let cluster = read(layers, SettingKey::Cluster, value::etcd_name)?;
        let replica = read(layers, SettingKey::Replica, value::node_name)?;
        let Some((endpoints, origin)) = endpoints else { return without_etcd(layers) };
        if let Some(data_dir) = data_dir {
            return Err(ConfigError::TwoStores { etcd: origin, data_dir });
        }
        Ok(Some(Self {
            endpoints,
            user: both(user, password, [SettingKey::EtcdUser, SettingKey::EtcdPasswordFile])?,
            ca: ca.map(|(ca, _)| ca),
            certificate: both(certificate, key, [SettingKey::EtcdCert, SettingKey::EtcdKey])?,
            cluster: cluster.map_or_else(|| Self::DEFAULT_CLUSTER.to_owned(), |(cluster, _)| cluster),
            replica: replica.and_then(|(replica, _)| replica),
        }))
    }
}

/// Flags of commands that use a registry in etcd without serving it.
#[derive(Debug, Clone, Default, Args)]
pub struct EtcdArgs {
    /// Members of etcd, as URLs separated by commas, as given to `callboard serve`
    #[arg(long, value_name = "URL,...")]
    etcd: Option<String>,
    /// User of etcd
    #[arg(long, value_name = "NAME")]
    etcd_user: Option<String>,
    /// File with the password of --etcd-user
    #[arg(long, value_name = "FILE")]
    etcd_password_file: Option<String>,
    /// PEM file with the authorities that sign etcd's certificates [default: those of the system]
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<String>,
    /// PEM file with the certificate that etcd is shown
    #[arg(long, value_name = "FILE")]
    etcd_cert: Option<String>,
    /// PEM file with the private key of --etcd-cert
    #[arg(long, value_name = "FILE")]
    etcd_key: Option<String>,
    /// Name of the registry among those that share etcd [default: default]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

impl EtcdArgs {
    /// Validates the flags. `None`: they name no etcd.
    ///
    /// # Errors
    ///
    /// When a value is invalid, or a flag lacks another one.
    pub fn resolve(&self) -> Result<Option<EtcdConfig>, ConfigError> {
        let mut flags = RawSettings::default();
        for (key, text) in [
            (SettingKey::Etcd, &self.etcd),
            (SettingKey::EtcdUser, &self.etcd_user),
            (SettingKey::EtcdPasswordFile, &self.etcd_password_file),
            (SettingKey::EtcdCa, &self.etcd_ca),
            (SettingKey::EtcdCert, &self.etcd_cert),
            (SettingKey::EtcdKey, &self.etcd_key),
            (SettingKey::Cluster, &self.cluster),
        ] {
            if let Some(text) = text {
                flags.put(key, text.clone(), SettingOrigin::Flag(key.flag()));
            }
        }
        EtcdConfig::resolve(&[flags], None)
    }
}

/// Returns two settings that need each other.
fn both<A, B>(
    one: Option<(A, SettingOrigin)>,
    other: Option<(B, SettingOrigin)>,
    keys: [SettingKey; 2],
) -> Result<Option<(A, B)>, ConfigError> {
    match (one, other) {
        (Some((one, _)), Some((other, _))) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        (Some((_, origin)), None) => Err(ConfigError::Incomplete { origin, missing: keys[1].flag() }),
        (None, Some((_, origin))) => Err(ConfigError::Incomplete { origin, missing: keys[0].flag() }),
    }
}

/// Returns no settings, or an error if one of them is set without etcd.
fn without_etcd(layers: &[RawSettings]) -> Result<Option<EtcdConfig>, ConfigError> {
    let keys = [
        SettingKey::EtcdUser,
        SettingKey::EtcdPasswordFile,
        SettingKey::EtcdCa,
        SettingKey::EtcdCert,
        SettingKey::EtcdKey,
        SettingKey::Cluster,
        SettingKey::Replica,
    ];
    let origin = keys.into_iter().find_map(|key| layers.iter().find_map(|layer| layer.get(key)));
    match origin {
        Some((_, origin)) => Err(ConfigError::Incomplete { origin: origin.clone(), missing: SettingKey::Etcd.flag() }),
        None => Ok(None),
    }
}
