import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.regex.Pattern;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.ar.ArabicAnalyzer;
import org.apache.lucene.analysis.bg.BulgarianAnalyzer;
import org.apache.lucene.analysis.bn.BengaliAnalyzer;
import org.apache.lucene.analysis.br.BrazilianAnalyzer;
import org.apache.lucene.analysis.ca.CatalanAnalyzer;
import org.apache.lucene.analysis.cjk.CJKAnalyzer;
import org.apache.lucene.analysis.ckb.SoraniAnalyzer;
import org.apache.lucene.analysis.cz.CzechAnalyzer;
import org.apache.lucene.analysis.da.DanishAnalyzer;
import org.apache.lucene.analysis.de.GermanAnalyzer;
import org.apache.lucene.analysis.el.GreekAnalyzer;
import org.apache.lucene.analysis.en.EnglishAnalyzer;
import org.apache.lucene.analysis.en.PorterStemFilter;
import org.apache.lucene.analysis.es.SpanishAnalyzer;
import org.apache.lucene.analysis.et.EstonianAnalyzer;
import org.apache.lucene.analysis.eu.BasqueAnalyzer;
import org.apache.lucene.analysis.fa.PersianAnalyzer;
import org.apache.lucene.analysis.fi.FinnishAnalyzer;
import org.apache.lucene.analysis.fr.FrenchAnalyzer;
import org.apache.lucene.analysis.ga.IrishAnalyzer;
import org.apache.lucene.analysis.gl.GalicianAnalyzer;
import org.apache.lucene.analysis.hi.HindiAnalyzer;
import org.apache.lucene.analysis.hu.HungarianAnalyzer;
import org.apache.lucene.analysis.hy.ArmenianAnalyzer;
import org.apache.lucene.analysis.id.IndonesianAnalyzer;
import org.apache.lucene.analysis.it.ItalianAnalyzer;
import org.apache.lucene.analysis.lt.LithuanianAnalyzer;
import org.apache.lucene.analysis.lv.LatvianAnalyzer;
import org.apache.lucene.analysis.miscellaneous.ASCIIFoldingFilter;
import org.apache.lucene.analysis.miscellaneous.TruncateTokenFilter;
import org.apache.lucene.analysis.nl.DutchAnalyzer;
import org.apache.lucene.analysis.no.NorwegianAnalyzer;
import org.apache.lucene.analysis.pattern.PatternTokenizer;
import org.apache.lucene.analysis.pt.PortugueseAnalyzer;
import org.apache.lucene.analysis.ro.RomanianAnalyzer;
import org.apache.lucene.analysis.ru.RussianAnalyzer;
import org.apache.lucene.analysis.sr.SerbianAnalyzer;
import org.apache.lucene.analysis.sv.SwedishAnalyzer;
import org.apache.lucene.analysis.th.ThaiAnalyzer;
import org.apache.lucene.analysis.th.ThaiTokenizer;
import org.apache.lucene.analysis.tr.TurkishAnalyzer;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.index.analysis.AnalyzerProvider;
import org.elasticsearch.index.analysis.AnalyzerScope;
import org.elasticsearch.index.analysis.TokenFilterFactory;
import org.elasticsearch.index.analysis.TokenizerFactory;
import org.elasticsearch.indices.analysis.AnalysisModule.AnalysisProvider;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.AnalysisPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;

/** What Ragline asks of two modules that the distribution carries and no jar holds: analyzers (the same classes of Lucene), GET /. */
public class TestModule extends Plugin implements AnalysisPlugin, ActionPlugin {
  private static final Map<String, Supplier<Analyzer>> LANGUAGES = new HashMap<>();

  static {
    LANGUAGES.put("arabic", ArabicAnalyzer::new);
    LANGUAGES.put("armenian", ArmenianAnalyzer::new);
    LANGUAGES.put("basque", BasqueAnalyzer::new);
    LANGUAGES.put("bengali", BengaliAnalyzer::new);
    LANGUAGES.put("brazilian", BrazilianAnalyzer::new);
    LANGUAGES.put("bulgarian", BulgarianAnalyzer::new);
    LANGUAGES.put("catalan", CatalanAnalyzer::new);
    LANGUAGES.put("cjk", CJKAnalyzer::new);
    LANGUAGES.put("czech", CzechAnalyzer::new);
    LANGUAGES.put("danish", DanishAnalyzer::new);
    LANGUAGES.put("dutch", DutchAnalyzer::new);
    LANGUAGES.put("english", EnglishAnalyzer::new);
    LANGUAGES.put("estonian", EstonianAnalyzer::new);
    LANGUAGES.put("finnish", FinnishAnalyzer::new);
    LANGUAGES.put("french", FrenchAnalyzer::new);
    LANGUAGES.put("galician", GalicianAnalyzer::new);
    LANGUAGES.put("german", GermanAnalyzer::new);
    LANGUAGES.put("greek", GreekAnalyzer::new);
    LANGUAGES.put("hindi", HindiAnalyzer::new);
    LANGUAGES.put("hungarian", HungarianAnalyzer::new);
    LANGUAGES.put("indonesian", IndonesianAnalyzer::new);
    LANGUAGES.put("irish", IrishAnalyzer::new);
    LANGUAGES.put("italian", ItalianAnalyzer::new);
    LANGUAGES.put("latvian", LatvianAnalyzer::new);
    LANGUAGES.put("lithuanian", LithuanianAnalyzer::new);
    LANGUAGES.put("norwegian", NorwegianAnalyzer::new);
    LANGUAGES.put("persian", PersianAnalyzer::new);
    LANGUAGES.put("portuguese", PortugueseAnalyzer::new);
    LANGUAGES.put("romanian", RomanianAnalyzer::new);
    LANGUAGES.put("russian", RussianAnalyzer::new);
    LANGUAGES.put("serbian", SerbianAnalyzer::new);
    LANGUAGES.put("sorani", SoraniAnalyzer::new);
    LANGUAGES.put("spanish", SpanishAnalyzer::new);
    LANGUAGES.put("swedish", SwedishAnalyzer::new);
    if (ThaiTokenizer.DBBI_AVAILABLE) { // a small Java has no dictionary of Thai
      LANGUAGES.put("thai", ThaiAnalyzer::new);
    }
    LANGUAGES.put("turkish", TurkishAnalyzer::new);
  }

  private record Named(String name, Analyzer get) implements AnalyzerProvider<Analyzer> {
    public AnalyzerScope scope() {
      return AnalyzerScope.INDICES;
    }
  }

  private record Filter(String name, UnaryOperator<TokenStream> wrap) implements TokenFilterFactory {
    public TokenStream create(TokenStream words) {
      return wrap.apply(words);
    }
  }

  @Override
  public Map<String, AnalysisProvider<AnalyzerProvider<? extends Analyzer>>> getAnalyzers() {
    Map<String, AnalysisProvider<AnalyzerProvider<? extends Analyzer>>> found = new HashMap<>();
    LANGUAGES.forEach((language, make) ->
        found.put(language, (index, environment, name, settings) -> new Named(name, make.get())));
    return found;
  }

  @Override
  public Map<String, AnalysisProvider<TokenFilterFactory>> getTokenFilters() {
    return Map.of(
        "asciifolding", (index, environment, name, settings) -> new Filter(name, ASCIIFoldingFilter::new),
        "truncate", (index, environment, name, settings) -> {
          int length = settings.getAsInt("length", 10);
          return new Filter(name, words -> new TruncateTokenFilter(words, length));
        },
        "porter_stem", (index, environment, name, settings) -> new Filter(name, PorterStemFilter::new));
  }

  @Override
  public Map<String, AnalysisProvider<TokenizerFactory>> getTokenizers() {
    return Map.of("pattern", (index, environment, name, settings) -> {
      Pattern between = Pattern.compile(settings.get("pattern", "\\W+"));
      return TokenizerFactory.newFactory(name, () -> new PatternTokenizer(between, -1));
    });
  }

  @Override
  public List<RestHandler> getRestHandlers(
      RestHandlersServices services, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) {
    return List.of(new Greeting());
  }

  private static class Greeting extends BaseRestHandler {
    @Override
    public String getName() {
      return "greeting";
    }

    @Override
    public List<Route> routes() {
      return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
    }

    @Override
    protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
      return channel -> {
        var body = channel.newBuilder().startObject().field("cluster_name", "tests");
        body.startObject("version").field("number", Build.current().version());
        body.field("build_flavor", "default").endObject().field("tagline", "You Know, for Search").endObject();
        channel.sendResponse(new RestResponse(RestStatus.OK, body));
      };
    }
  }
}
