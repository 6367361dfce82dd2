import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.Locale;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;

/**
 * Curator's InterProcessMutex beside bare nodes that are created and deleted through the same client: what the Rust program
 * {@code zookeeper} of the folder above runs as one of those that are compared.
 *
 * <pre>echo 'cycles mutex 16 same 1000' | mvn -q -B compile exec:java -Dexec.args=127.0.0.1:2181</pre>
 *
 * An order a line, an answer a line, as JSON, times in microseconds: {@code cycles floor|mutex TASKS own|same MILLISECONDS}.
 * Each task is a thread with a lock of its own, as the class wants it.
 */
public final class Main {
    /** One task's lock. */
    private interface Locker {
        void take() throws Exception;

        void giveBack() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.builder()
                .connectString(args[0])
                .sessionTimeoutMs(600_000)
                .retryPolicy(new RetryNTimes(0, 0))
                .build();
        client.start();
        client.blockUntilConnected();
        client.create().orSetData().creatingParentsIfNeeded().forPath("/curator/floor");
        System.out.println("ready");
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        for (String order = orders.readLine(); order != null; order = orders.readLine()) {
            String[] words = order.trim().split(" ");
            if (words.length != 5 || !words[0].equals("cycles")) {
                throw new IllegalArgumentException(order);
            }
            int tasks = Integer.parseInt(words[2]);
            long millis = Long.parseLong(words[4]);
            System.out.println(cycles(client, words[1], tasks, words[3].equals("same"), millis));
        }
        System.exit(0);
    }

    private static Locker locker(CuratorFramework client, String what, String key) {
        if (what.equals("floor")) {
            String path = "/curator/floor/" + key;
            return new Locker() {
                @Override
                public void take() throws Exception {
                    client.create().withMode(CreateMode.EPHEMERAL).forPath(path);
                }

                @Override
                public void giveBack() throws Exception {
                    client.delete().forPath(path);
                }
            };
        }
        InterProcessMutex mutex = new InterProcessMutex(client, "/curator/mutex/" + key);
        return new Locker() {
            @Override
            public void take() throws Exception {
                mutex.acquire();
            }

            @Override
            public void giveBack() throws Exception {
                mutex.release();
            }
        };
    }

    private static String cycles(CuratorFramework client, String what, int tasks, boolean same, long millis)
            throws Exception {
        double[][] takes = new double[tasks][];
        double[][] gives = new double[tasks][];
        Thread[] threads = new Thread[tasks];
        double before = cpu();
        long start = System.nanoTime();
        for (int task = 0; task < tasks; task++) {
            int number = task;
            Locker locker = locker(client, what, same ? "hot" : String.valueOf(task));
            threads[task] = new Thread(() -> {
                double[] taken = new double[1 << 16];
                double[] given = new double[1 << 16];
                int count = 0;
                try {
                    while (System.nanoTime() - start < millis * 1_000_000 && count < taken.length) {
                        long asked = System.nanoTime();
                        locker.take();
                        long held = System.nanoTime();
                        locker.giveBack();
                        taken[count] = (held - asked) / 1e3;
                        given[count] = (System.nanoTime() - held) / 1e3;
                        count++;
                    }
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
                takes[number] = Arrays.copyOf(taken, count);
                gives[number] = Arrays.copyOf(given, count);
            });
            threads[task].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        double[] allTakes = Arrays.stream(takes).flatMapToDouble(Arrays::stream).sorted().toArray();
        double[] allGives = Arrays.stream(gives).flatMapToDouble(Arrays::stream).sorted().toArray();
        double[] shares = Arrays.stream(takes).mapToDouble(one -> one.length).toArray();
        double sum = Arrays.stream(shares).sum();
        double squares = Arrays.stream(shares).map(share -> share * share).sum();
        return String.format(
                Locale.ROOT,
                "{\"rate\":%f,\"take_p50\":%f,\"take_p99\":%f,\"give_back_p50\":%f,\"give_back_p99\":%f,"
                        + "\"jain\":%f,\"client\":%f}",
                allTakes.length / seconds,
                at(allTakes, 500),
                at(allTakes, 990),
                at(allGives, 500),
                at(allGives, 990),
                sum * sum / (tasks * squares),
                (cpu() - before) / allTakes.length * 1e6);
    }

    private static double at(double[] sorted, int permille) {
        return sorted.length == 0 ? 0 : sorted[(sorted.length - 1) * permille / 1000];
    }

    /** Seconds of the processor so far. */
    private static double cpu() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime() / 1e9;
    }

    private Main() {}
}
