//! Calls over the instances of a service. The example `serve` starts them, and has the commands.

#[allow(dead_code, reason = "the server is for the other example")]
mod greeter;

use std::{env, error::Error, time::Duration};

use callboard::client::{Discovery, Servers};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registries: Servers = env::var("CALLBOARD_SERVER").as_deref().unwrap_or("127.0.0.1:8502").parse()?;
    let channel = Discovery::new(&registries).channel("greeter");
    let mut client = greeter::GreeterClient::new(channel.clone());
    for number in 0..10 {
        println!("{}", client.hello(&number.to_string()).await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for instance in channel.instances() {
        println!("{}: {} calls, {:?}", instance.instance.id, instance.calls(), instance.connection);
    }
    Ok(())
}
