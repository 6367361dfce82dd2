//! A proxy to several servers has a door for each, and is one proxy.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::proxy::{Proxy, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{
    ask, assert_over, assert_reset, assert_reset_after, connect_to, now, read, silence, until, within,
};
use crate::echo::Echo;

#[tokio::test]
async fn each_door_leads_to_its_own_server() {
    let (echoes, proxy) = scene().await;
    let doors = proxy.addresses();
    assert_eq!(proxy.address(), doors.join(","));
    assert_eq!(doors.len(), 3);
    assert!(doors[0].ends_with(&format!(":{}", proxy.port())), "{doors:?}");
    for (number, door) in doors.iter().enumerate() {
        ask(&mut connect_to(door).await, &vec![7; number + 1]).await;
    }
    assert_eq!(echoes.each_ref().map(Echo::received), [1, 2, 3]);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.to_server, counts.to_client), (3, 6, 6));
}

#[tokio::test]
async fn a_proxy_to_one_server_has_one_address() {
    let echo = Echo::start().await;
    let proxy = Proxy::to(echo.address()).await.unwrap();
    assert_eq!(proxy.address(), format!("127.0.0.1:{}", proxy.port()));
    assert_eq!(proxy.addresses(), [proxy.address()]);
}

#[tokio::test]
async fn what_is_done_to_a_proxy_is_done_to_all_its_doors() {
    const EACH: Duration = Duration::from_millis(40);
    let (echoes, proxy) = scene().await;
    let mut clients = everywhere(&proxy).await;
    proxy.delay(EACH);
    for client in &mut clients {
        let start = now();
        ask(client, b"late").await;
        assert!(now().since(start) >= EACH * 2);
    }
    proxy.delay(Duration::ZERO);
    proxy.slices(1, Duration::from_secs(3600));
    for client in &mut clients {
        client.write_all(b"slow").await.unwrap();
        assert_eq!(read(client, 1).await, b"s");
        silence(client).await;
    }
    proxy.slices(0, Duration::ZERO);
    for client in &mut clients {
        assert_eq!(read(client, 3).await, b"low");
    }
    proxy.block(Way::ToServer);
    for client in &mut clients {
        client.write_all(b"lost").await.unwrap();
        silence(client).await;
    }
    assert_eq!(echoes.each_ref().map(Echo::received), [11, 11, 11], "it arrived");
    proxy.heal();
    for client in &mut clients {
        assert_reset(client).await;
    }
    let mut clients = everywhere(&proxy).await;
    proxy.half_close();
    for client in &mut clients {
        let mut rest = Vec::new();
        assert_eq!(within("the end", client.read_to_end(&mut rest)).await.unwrap(), 0);
    }
    let mut clients = everywhere(&proxy).await;
    proxy.reset_all();
    for client in &mut clients {
        assert_reset(client).await;
    }
}

#[tokio::test]
async fn every_door_refuses_new_connections_only() {
    let (echoes, proxy) = scene().await;
    let mut old = everywhere(&proxy).await;
    proxy.refuse(true);
    for door in proxy.addresses() {
        // A reset that comes this early may be seen in any of the calls.
        let refused = async {
            let mut client = TcpStream::connect(door).await?;
            client.write_all(b"two").await?;
            client.read_u8().await
        };
        let error = within("a refusal", refused).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    }
    assert_eq!((proxy.counts().connections, proxy.counts().refused), (3, 3));
    assert_eq!(echoes.each_ref().map(Echo::accepted), [1, 1, 1]);
    for client in &mut old {
        ask(client, b"three").await;
    }
}

/// The connection that it concerns is one of all, whichever door it came to.
#[tokio::test]
async fn what_concerns_one_connection_concerns_one_of_all_doors() {
    let (echoes, proxy) = scene().await;
    let mut clients = everywhere(&proxy).await;
    proxy.reset_after_bytes(Way::ToServer, 4);
    ask(&mut clients[1], b"abc").await;
    clients[2].write_all(b"0123").await.unwrap();
    assert_reset_after(&mut clients[2], b"0").await;
    proxy.swallow_next_reply();
    clients[0].write_all(b"two").await.unwrap();
    assert_reset(&mut clients[0]).await;
    until("the request has arrived", || echoes[0].received() == 6).await;
    ask(&mut clients[1], b"four").await;
}

#[tokio::test]
async fn whoever_watches_sees_every_door() {
    let (_echoes, proxy) = scene().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    proxy.watch(move |way, piece| {
        if way == Way::ToServer {
            log.lock().unwrap().push(piece.to_vec());
        }
    });
    for (door, message) in proxy.addresses().iter().zip([b"a", b"b", b"c"]) {
        ask(&mut connect_to(door).await, message).await;
    }
    assert_eq!(*seen.lock().unwrap(), [b"a", b"b", b"c"]);
}

#[tokio::test]
async fn doors_lead_elsewhere_together_or_not_at_all() {
    let (echoes, proxy) = scene().await;
    let mut old = everywhere(&proxy).await;
    let [one, two, three] = echoes.each_ref().map(Echo::address);
    for wrong in [one, &format!("{one},{two}"), &format!("{one},{two},{three},{one}")] {
        let error = proxy.lead_to(wrong).unwrap_err();
        assert!(error.to_string().contains("a proxy to 3"), "{error}");
    }
    ask(&mut connect_to(&proxy.addresses()[2]).await, b"x").await;
    assert_eq!(echoes.each_ref().map(Echo::received), [3, 3, 4]);
    proxy.lead_to(format!("{two},{two},{one}")).unwrap();
    for (door, message) in proxy.addresses().iter().zip(["four", "four", "fives"]) {
        ask(&mut connect_to(door).await, message.as_bytes()).await;
    }
    assert_eq!(echoes.each_ref().map(Echo::received), [8, 11, 4]);
    // Those that there were stay.
    ask(&mut old[2], b"end").await;
    assert_eq!(echoes[2].received(), 7);
}

#[tokio::test]
async fn a_server_that_is_not_there_closes_its_own_door_only() {
    let (echoes, proxy) = scene().await;
    echoes[1].die().await;
    let doors = proxy.addresses();
    assert_reset(&mut connect_to(&doors[1]).await).await;
    ask(&mut connect_to(&doors[0]).await, b"one").await;
    ask(&mut connect_to(&doors[2]).await, b"one").await;
}

#[tokio::test]
async fn nobody_listens_at_any_door_when_a_proxy_has_been_closed() {
    let (_echoes, proxy) = scene().await;
    let mut clients = everywhere(&proxy).await;
    assert_eq!(proxy.connections(), 3);
    within("the end", proxy.close()).await;
    assert_eq!(proxy.connections(), 0);
    for (client, door) in clients.iter_mut().zip(proxy.addresses()) {
        assert_over(client).await;
        let error = TcpStream::connect(door).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

async fn scene() -> ([Echo; 3], Proxy) {
    let echoes = [Echo::start().await, Echo::start().await, Echo::start().await];
    let proxy = Proxy::to(echoes.each_ref().map(Echo::address).join(",")).await.unwrap();
    (echoes, proxy)
}

/// A client at each door, that has been answered.
async fn everywhere(proxy: &Proxy) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for door in proxy.addresses() {
        let mut client = connect_to(&door).await;
        ask(&mut client, b"one").await;
        clients.push(client);
    }
    clients
}
