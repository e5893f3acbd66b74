import java.nio.file.Path;
import java.util.Map;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/** One Elasticsearch node from its jars, without the distribution's launcher. Argument: the home folder. */
public class TestNode {
  public static void main(String[] arguments) throws Exception {
    Path home = Path.of(arguments[0]);
    LogConfigurator.configureESLogging();
    var environment = InternalSettingsPreparer.prepareEnvironment(
        Settings.EMPTY, Map.of("path.home", home.toString()), home.resolve("config"), () -> "tests");
    var modules = PluginsLoader.loadModulesBundles(environment.modulesDir(), false);
    var plugins = PluginsLoader.loadPluginsBundles(environment.pluginsDir(), false);
    Node node = new Node(environment, PluginsLoader.createPluginsLoader(modules, plugins, Map.of()));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> close(node)));
    node.start();
    Thread.currentThread().join();
  }

  private static void close(Node node) {
    try {
      node.close();
    } catch (Exception error) {
      error.printStackTrace();
    }
  }
}
